//! `relay completions` and `relay man`: completions for shells, and manual pages.

use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use crate::args::{Args, CompletionsArgs, ManArgs};
use crate::exit::Exit;
use crate::log;

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::for_shells(), "relay", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush())?;
    Ok(Exit::Done)
}

pub(crate) fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let mut command = Args::with_examples().disable_help_subcommand(true);
    command.build();
    let mut pages = 0;
    write_pages(&command, folder, &mut pages).with_context(|| format!("{}", folder.display()))?;
    let first = folder.join("relay.1");
    log::say(&format!(
        "relay: {pages} pages are in {}; read one with: man {}",
        folder.display(),
        first.display()
    ));
    Ok(Exit::Done)
}

/// Writes a page for the command, and one for each of its subcommands.
fn write_pages(command: &Command, folder: &Path, pages: &mut usize) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_pages(sub, folder, pages)?;
    }
    *pages += 1;
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    // `clap_mangen` leaves out the text of flags that are hidden in the short help.
    let whole = command.clone().mut_args(|arg| arg.hide_short_help(false));
    Man::new(whole).render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut end = Roff::new();
    if let Some(examples) = command.get_after_long_help() {
        end.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.to_string().lines().skip(1) {
            end.text([roman(line.trim_start())]);
        }
        end.control("fi", []);
    }
    end.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        end.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    end.control("SH", ["SEE ALSO"]).text([roman("relay(1)")]);
    end.to_writer(&mut page)?;
    std::fs::write(folder.join(man.get_filename()), page)
}

/// The same as in the help of `relay`.
const EXIT_CODES: [(&str, &str); 10] = [
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage"),
    ("3", "not found"),
    ("4", "not authorised"),
    ("5", "timed out"),
    ("6", "conflict"),
    ("7", "outcome of an append unknown"),
    ("130", "ended by Ctrl-C"),
    ("143", "ended by SIGTERM; a server ends with 0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_codes_are_those_of_the_help() {
        let help = Args::with_examples().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for (code, meaning) in &EXIT_CODES[..8] {
            assert!(help.contains(&format!("{code} {meaning}")), "{code} {meaning}\n{help}");
        }
    }

    #[test]
    fn pages_have_every_text_examples_and_exit_codes() {
        let folder = tempfile::tempdir().unwrap();
        man(&ManArgs { folder: folder.path().to_owned() }).unwrap();
        let pods = std::fs::read_to_string(folder.path().join("relay-pods.1")).unwrap();
        for section in ["EXAMPLES", "EXIT STATUS"] {
            assert!(pods.contains(section), "{section}\n{pods}");
        }
        assert!(pods.contains("service proxy of an API server"), "{pods}");
        for page in std::fs::read_dir(folder.path()).unwrap() {
            let page = page.unwrap().path();
            let text = std::fs::read_to_string(&page).unwrap();
            let empty = text.lines().collect::<Vec<_>>();
            let empty = empty.windows(3).find(|lines| lines[0] == ".TP" && lines[2].is_empty());
            assert_eq!(empty, None, "{}: a flag without a text", page.display());
        }
    }
}
