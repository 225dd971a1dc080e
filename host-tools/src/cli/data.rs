//! `picodream data`: fetch and check a data set.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::output::Output;
use crate::config::ImageConfig;
use crate::data::{self, Dataset, Source, Split, fashion, fetch::Fetched};
use crate::picture::Picture;

/// Fetch or check a data set, and show some of its images.
///
/// `faces`, `emoji` and `fashion-mini` are part of the repository. `fashion` (Fashion-MNIST, 70,000 garments) is fetched
/// once as a Debian package; where that is not possible the error says which files to put where. `emoji:Faces,People` is a
/// built-in set with these of its classes only. A folder of PNG or JPEG files (sub-folders are classes) or an IDX images file
/// is read as training would read it.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream data fashion
  picodream data faces
  picodream data emoji:Food,Plants
  picodream data my-pictures --size 32 --channels 3")]
pub struct DataArgs {
    /// fashion, fashion-mini, faces, emoji, a folder of pictures, or an IDX images file.
    #[arg(value_name = "NAME|PATH")]
    source: String,
    /// Width and height to which images are fitted, in pixels [default: 32 for emoji, else 16].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    size: Option<u16>,
    /// 1 for grey, 3 for RGB; the built-in sets have their own default.
    #[arg(long, value_parser = ["1", "3"])]
    channels: Option<String>,
}

/// Runs the verb.
pub fn run(args: &DataArgs, output: &Output) -> Result<()> {
    let source = Source::parse(&args.source)?;
    let mut fetched = None;
    if source == Source::Fashion {
        let spinner = output.spinner("fetching Fashion-MNIST (31 MB)");
        fetched = Some(data::fetch_fashion(&fashion::default_folder())?);
        spinner.finish_and_clear();
    }
    let channels = args.channels.as_ref().map_or(source.channels(), |text| if text == "3" { 3 } else { 1 });
    let size = args.size.map_or(source.size(), usize::from);
    let image = ImageConfig { width: size, height: size, channels };
    let spinner = output.spinner("reading images");
    let train = data::load(&args.source, Split::Train, image)?;
    let test = data::load(&args.source, Split::Test, image)?;
    spinner.finish_and_clear();
    tell(args, output, &train, &test, fetched)
}

fn tell(args: &DataArgs, output: &Output, train: &Dataset, test: &Dataset, fetched: Option<Fetched>) -> Result<()> {
    let first: Vec<Picture> = (0..train.len().min(8))
        .map(|i| Picture::from_samples(train.width, train.height, train.channels, train.image(i)))
        .collect();
    output.pictures(&first)?;
    match fetched {
        Some(Fetched::Downloaded) => {
            output.line(format_args!("fetched into {}", fashion::default_folder().display()))?
        }
        Some(Fetched::AlreadyThere) => output.line("already there, checksums right")?,
        None => {}
    }
    output.line(format_args!(
        "{}: {} training and {} test images of {}x{}x{}, {} classes{}",
        args.source,
        train.len(),
        test.len(),
        train.width,
        train.height,
        train.channels,
        train.class_names.len(),
        if train.class_names.is_empty() { String::new() } else { format!(" ({})", train.class_names.join(", ")) }
    ))?;
    output.object(&json!({
        "source": args.source,
        "train_images": train.len(),
        "test_images": test.len(),
        "image": { "width": train.width, "height": train.height, "channels": train.channels },
        "class_names": train.class_names,
    }))
}
