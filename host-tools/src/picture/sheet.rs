//! A contact sheet: images in a grid, enlarged by whole factors, with a title and labels for rows and columns.

use super::{CHARACTER, Picture, Rgb};

const PAPER: Rgb = [24, 26, 32];
const INK: Rgb = [222, 226, 234];
const FAINT: Rgb = [138, 146, 160];

/// What [`sheet`] draws; all images have one size.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    /// One line above the grid; empty for none.
    pub title: String,
    /// The images, row by row.
    pub images: Vec<Picture>,
    /// Images in a row.
    pub columns: usize,
    /// A label left of each row; empty for none.
    pub row_labels: Vec<String>,
    /// A label above each column; empty for none.
    pub column_labels: Vec<String>,
    /// A line under each image; empty for none.
    pub captions: Vec<String>,
    /// Enlargement of the images.
    pub scale: usize,
}

/// The drawn sheet, and the top left corner (x, y) of every image on it.
#[must_use]
pub fn sheet(sheet: &Sheet) -> (Picture, Vec<(usize, usize)>) {
    let (columns, scale) = (sheet.columns.max(1), sheet.scale.max(1));
    let rows = sheet.images.len().div_ceil(columns);
    let cell = |size: fn(&Picture) -> usize| sheet.images.iter().map(size).max().unwrap_or(1) * scale;
    let (cell_width, cell_height) = (cell(|p| p.width), cell(|p| p.height));
    let caption_height = if sheet.captions.is_empty() { 0 } else { CHARACTER + CHARACTER / 2 };
    let (gap, margin, line) = (scale.clamp(2, 8), 2 * CHARACTER, 2 * CHARACTER);
    let label_width = sheet.row_labels.iter().map(|label| label.len() * CHARACTER + CHARACTER).max().unwrap_or(0);
    let left = margin + label_width;
    let title_height = if sheet.title.is_empty() { 0 } else { line };
    let top = margin + title_height + if sheet.column_labels.is_empty() { 0 } else { line };
    let grid_width = columns * (cell_width + gap) - gap;
    let width = (left + grid_width + margin).max(sheet.title.len() * CHARACTER + 2 * margin);
    let row_height = cell_height + caption_height + gap;
    let height = top + (rows * row_height).max(gap) - gap + margin;

    let mut paper = Picture::new(width, height, PAPER);
    paper.text(margin, margin, 1, INK, &sheet.title);
    let fitting = cell_width / CHARACTER;
    for (column, label) in sheet.column_labels.iter().take(columns).enumerate() {
        let label: String = label.chars().take(fitting).collect();
        let x = left + column * (cell_width + gap) + (cell_width - label.len() * CHARACTER) / 2;
        paper.text(x, margin + title_height, 1, FAINT, &label);
    }
    for (row, label) in sheet.row_labels.iter().take(rows).enumerate() {
        let x = left - CHARACTER - label.len() * CHARACTER;
        let y = top + row * row_height + cell_height.saturating_sub(CHARACTER) / 2;
        paper.text(x, y, 1, FAINT, label);
    }
    let corner = |i: usize| (left + i % columns * (cell_width + gap), top + i / columns * row_height);
    let corners: Vec<_> = (0..sheet.images.len()).map(corner).collect();
    for (image, &(x, y)) in sheet.images.iter().zip(&corners) {
        paper.paste(x, y, &image.enlarged(scale));
    }
    for (caption, &(x, y)) in sheet.captions.iter().zip(&corners) {
        let caption: String = caption.chars().take(fitting).collect();
        paper.text(x, y + cell_height + CHARACTER / 4, 1, FAINT, &caption);
    }
    (paper, corners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_lies_where_its_corner_says() {
        let images: Vec<_> = (0..7).map(|i| Picture::new(3, 2, [i * 30 + 40, 0, 0])).collect();
        let labels = vec!["first".into(), "a longer one".into()];
        let spec = Sheet {
            title: "t".into(),
            images: images.clone(),
            columns: 4,
            row_labels: labels,
            scale: 5,
            ..Sheet::default()
        };
        let (picture, corners) = sheet(&spec);
        assert_eq!(corners.len(), 7);
        for (image, (x, y)) in images.iter().zip(corners) {
            assert_eq!(picture.pixel(x, y), image.pixel(0, 0));
            assert_eq!(picture.pixel(x + 14, y + 9), image.pixel(2, 1));
            assert_ne!(picture.pixel(x + 15, y), image.pixel(0, 0));
        }
    }

    #[test]
    fn no_image_is_no_panic() {
        let _ = sheet(&Sheet::default());
    }
}
