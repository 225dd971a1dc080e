//! A picture in the terminal: two pixels a character cell by the upper half block, in 24-bit or 256 colours; greys as ASCII else.

use std::io::IsTerminal;

use super::{Picture, Rgb};

/// Blank columns between images.
const GAP: usize = 2;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalColour {
    /// 24-bit colour.
    True,
    /// The 256-colour palette of xterm.
    Palette,
    /// No colour: characters of different darkness.
    Ascii,
}

/// What standard output can show; `None` when it is not a terminal, so that nothing is drawn into a pipe.
#[must_use]
pub fn terminal_colour() -> Option<TerminalColour> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let set = !variable("NO_COLOR").is_empty();
    std::io::stdout().is_terminal().then(|| colour_of(set, &variable("COLORTERM"), &variable("TERM")))
}

fn colour_of(no_color: bool, colorterm: &str, term: &str) -> TerminalColour {
    if no_color || term.is_empty() || term == "dumb" {
        TerminalColour::Ascii
    } else if ["truecolor", "24bit"].contains(&colorterm) || term.contains("direct") {
        TerminalColour::True
    } else if term.contains("256") || !colorterm.is_empty() {
        TerminalColour::Palette
    } else {
        TerminalColour::Ascii
    }
}

/// Rows of `images` side by side, as many as fit into `columns` characters, with a blank line between rows.
#[must_use]
pub fn terminal_preview(images: &[Picture], columns: usize, colour: TerminalColour) -> String {
    let width = images.iter().map(|p| p.width).max().unwrap_or(1);
    let (cell, rows_per_line) = if colour == TerminalColour::Ascii { (2, 1) } else { (1, 2) };
    let fit = (columns + GAP) / (width * cell + GAP);
    let mut out = String::new();
    for row in images.chunks(fit.max(1)) {
        let height = row.iter().map(|p| p.height).max().unwrap_or(0);
        for y in (0..height).step_by(rows_per_line) {
            for (i, picture) in row.iter().enumerate() {
                out.push_str(&" ".repeat(if i > 0 { GAP } else { 0 }));
                match colour {
                    TerminalColour::Ascii => ascii_line(&mut out, picture, y),
                    TerminalColour::True | TerminalColour::Palette => half_block_line(&mut out, picture, y, colour),
                }
            }
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

fn pixel_or_black(picture: &Picture, x: usize, y: usize) -> Rgb {
    if y < picture.height { picture.pixel(x, y) } else { [0; 3] }
}

/// Rows `y` and `y + 1` of a picture as one line of half blocks.
fn half_block_line(out: &mut String, picture: &Picture, y: usize, colour: TerminalColour) {
    for x in 0..picture.width {
        let (upper, lower) = (pixel_or_black(picture, x, y), pixel_or_black(picture, x, y + 1));
        let cell = if colour == TerminalColour::True {
            let ([r, g, b], [lr, lg, lb]) = (upper, lower);
            format!("\x1b[38;2;{r};{g};{b};48;2;{lr};{lg};{lb}m\u{2580}")
        } else {
            format!("\x1b[38;5;{};48;5;{}m\u{2580}", xterm(upper), xterm(lower))
        };
        out.push_str(&cell);
    }
    out.push_str("\x1b[0m");
}

/// Row `y` of a picture, two characters a pixel: the lighter, the denser.
fn ascii_line(out: &mut String, picture: &Picture, y: usize) {
    const RAMP: &[u8] = b" .:-=+*#%@";
    for x in 0..picture.width {
        let light: usize = pixel_or_black(picture, x, y).iter().map(|&c| usize::from(c)).sum();
        let character = char::from(RAMP[light * RAMP.len() / (3 * 255 + 1)]);
        out.extend([character, character]);
    }
}

/// The nearest colour of xterm's 6 × 6 × 6 cube or its 24 greys.
fn xterm([r, g, b]: Rgb) -> u8 {
    const LEVELS: [i32; 6] = [0, 95, 135, 175, 215, 255];
    let nearest = |v: u8| (0..6).min_by_key(|&i| (LEVELS[i] - i32::from(v)).abs()).unwrap_or(0);
    let (i, j, k) = (nearest(r), nearest(g), nearest(b));
    let distance =
        |to: [i32; 3]| [r, g, b].iter().zip(to).map(|(&have, want)| (i32::from(have) - want).pow(2)).sum::<i32>();
    let mean = (i32::from(r) + i32::from(g) + i32::from(b)) / 3;
    let grey = ((mean - 3) / 10).clamp(0, 23);
    if distance([8 + 10 * grey; 3]) < distance([LEVELS[i], LEVELS[j], LEVELS[k]]) {
        (232 + grey) as u8
    } else {
        (16 + 36 * i + 6 * j + k) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_told_apart() {
        assert_eq!(colour_of(false, "truecolor", "xterm-256color"), TerminalColour::True);
        assert_eq!(colour_of(false, "", "xterm-256color"), TerminalColour::Palette);
        assert_eq!(colour_of(false, "", "vt100"), TerminalColour::Ascii);
        assert_eq!(colour_of(true, "truecolor", "xterm"), TerminalColour::Ascii);
        assert_eq!(colour_of(false, "truecolor", "dumb"), TerminalColour::Ascii);
    }

    #[test]
    fn palette_hits_exact_colours() {
        for (rgb, index) in [([0, 0, 0], 16), ([255, 255, 255], 231), ([255, 0, 0], 196), ([128, 128, 128], 244)] {
            assert_eq!(xterm(rgb), index);
        }
    }

    #[test]
    fn preview_has_half_as_many_lines_as_pixels() {
        let images = vec![Picture::new(4, 5, [200, 10, 10]); 3];
        let text = terminal_preview(&images, 10, TerminalColour::True);
        assert_eq!(text.matches('\u{2580}').count(), 3 * 4 * 3);
        assert_eq!(text.lines().count(), 2 * (3 + 1));
        assert!(terminal_preview(&images, 80, TerminalColour::Ascii).is_ascii());
    }
}
