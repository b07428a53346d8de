//! What Nix says of an error, for people to read: the error first and whole, then how it came to it.

use crate::WARNING;

/// Frames at each end of a trace that are shown.
const FRAMES_SHOWN: usize = 5;

/// How the lines begin that Nix prints while all is well, or of which errors tell by themselves.
const PROGRESS: [&str; 9] = [
    WARNING,
    "copying ",
    "building ",
    "unpacking ",
    "downloading ",
    "fetching ",
    "evaluating ",
    "these ",
    "this ",
];

/// How nixpkgs begins its advice about packages that it refuses, none of which helps in a build: it
/// cannot see the environment, and has no command line.
const ADVICE: [&str; 2] = ["a) To temporarily allow", "You can install it anyway by"];

/// How nixpkgs refuses a package. How it came to that says nothing more.
const REFUSAL: &str = "efusing to evaluate";

/// Innermost frames that are shown beside those in the app.
const INNERMOST: usize = 2;

/// The error at the end of a trace and all that Nix says after it, then the frames of the trace, without
/// those that lie below `scratch` or in a text given on the command line. If some lead through `own`, these and
/// the innermost are shown, else the outermost and the innermost. Frames are paragraphs.
pub(crate) fn trim_trace(text: &str, scratch: &str, own: Option<&str>) -> String {
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| PROGRESS.iter().any(|words| line.starts_with(words)))
        .collect();
    let is_error = |line: &&str| line.trim_start().starts_with("error: ");
    let Some(at) = lines.iter().rposition(is_error) else {
        return lines.join("\n").trim().to_string();
    };
    let (trace, error) = lines.split_at(at);
    let error = without_advice(&dedented(error));
    let trace = trace.join("\n");
    let ours = |paragraph: &&str| {
        let at = [scratch, "«string»"];
        paragraph.contains("… ") && at.iter().any(|at| paragraph.contains(at))
    };
    let frames: Vec<&str> = trace
        .split("\n\n")
        .filter(|paragraph| !ours(paragraph))
        .map(|paragraph| paragraph.trim_matches('\n').trim_start_matches("error:\n"))
        .filter(|paragraph| !paragraph.trim().is_empty())
        .collect();
    if frames.is_empty() {
        return error;
    }
    let is_own = |frame: &&str| own.is_some_and(|own| frame.contains(own));
    let shown_innermost = if error.contains(REFUSAL) {
        0
    } else {
        INNERMOST
    };
    let innermost = frames.len().saturating_sub(shown_innermost);
    let frames = if shown_innermost == 0 || frames.iter().any(is_own) {
        let shown = frames.iter().enumerate();
        let shown = shown.filter(|(index, frame)| *index >= innermost || is_own(frame));
        shown.map(|(_, frame)| *frame).collect()
    } else {
        frames
    };
    if frames.is_empty() {
        return error;
    }
    format!("{error}\n\n{}", shortened(&frames).join("\n\n"))
}

/// Lines without what all of them are indented by.
fn dedented(lines: &[&str]) -> String {
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let filled = lines.iter().filter(|line| !line.trim().is_empty());
    let common = filled.map(indent).min().unwrap_or_default();
    let lines = lines
        .iter()
        .map(|line| line.get(common..).unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n").trim().to_string()
}

fn without_advice(error: &str) -> String {
    let starts = ADVICE.iter().filter_map(|advice| error.find(advice));
    let end = starts.min().unwrap_or(error.len());
    error[..end].trim_end().to_string()
}

/// The outermost and innermost frames of a trace, which is long where it leads through nixpkgs.
fn shortened(frames: &[&str]) -> Vec<String> {
    let owned = |frames: &[&str]| frames.iter().map(ToString::to_string).collect();
    let Some(left_out) = frames.len().checked_sub(2 * FRAMES_SHOWN + 1) else {
        return owned(frames);
    };
    let mut kept: Vec<String> = owned(&frames[..FRAMES_SHOWN]);
    kept.push(format!("       ({} frames are left out)", left_out + 1));
    let innermost: Vec<String> = owned(&frames[frames.len() - FRAMES_SHOWN..]);
    kept.extend(innermost);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_comes_first_and_the_frames_of_our_own_function_are_left_out() {
        let said = "\
error:
       … while evaluating list element at index 0
         at «string»:6:1:
            5| # x

       … while calling the 'import' builtin
         at /tmp/nix-1/roots.nix:50:9:

       … from the app
         at /nix/store/0000-source/default.nix:1:1:

       error: undefined variable 'missing'
       at /nix/store/0000-source/default.nix:1:1:
            1| missing
             | ^
";
        assert_eq!(
            trim_trace(said, "/tmp/nix-1", None),
            "\
error: undefined variable 'missing'
at /nix/store/0000-source/default.nix:1:1:
     1| missing
      | ^

       … from the app
         at /nix/store/0000-source/default.nix:1:1:"
        );
        let plain = "error: syntax error, unexpected ';'";
        assert_eq!(trim_trace(plain, "/tmp/nix-1", None), plain);
        let strange = "it ended";
        assert_eq!(trim_trace(strange, "/tmp/nix-1", None), strange);
    }

    #[test]
    fn the_middle_of_a_long_trace_is_left_out() {
        let deep: Vec<String> = (0..20).map(|n| format!("       … frame {n}")).collect();
        let said = format!("error:\n{}\n\n       error: no", deep.join("\n\n"));
        let deep = trim_trace(&said, "/x", None);
        assert!(deep.starts_with("error: no\n\n"));
        assert_eq!(deep.matches("… frame").count(), 10);
        assert!(deep.contains("… frame 4\n\n       (10 frames are left out)\n\n       … frame 15"));
    }

    #[test]
    fn frames_in_the_app_and_the_innermost_are_shown_alone() {
        let frame =
            |at: &str| format!("       … while calling\n         at /nix/store/{at}.nix:1:1:");
        let frames = [
            "0-app/a", "1-pkgs/b", "1-pkgs/c", "0-app/d", "1-pkgs/e", "1-pkgs/f",
        ];
        let frames = frames.map(frame).join("\n\n");
        let said = format!("error:\n{frames}\n\n       error: no");
        let trimmed = trim_trace(&said, "/x", Some("/nix/store/0-app"));
        let shown = ["0-app/a", "0-app/d", "1-pkgs/e", "1-pkgs/f"].map(frame);
        assert_eq!(trimmed, format!("error: no\n\n{}", shown.join("\n\n")));
    }

    #[test]
    fn why_nixpkgs_refuses_a_package_is_kept_and_its_advice_is_not() {
        let said = "\
error:
       … while evaluating the attribute 'drvPath'

       error: Package ‘tool-1.0’ in /nix/store/0000-source/tool.nix:7 has an unfree license (‘unfree’), refusing to evaluate.

       a) To temporarily allow unfree packages, you can use an environment variable
          for a single invocation of the nix tools.

            $ export NIXPKGS_ALLOW_UNFREE=1
";
        assert_eq!(
            trim_trace(said, "/x", None),
            "error: Package ‘tool-1.0’ in /nix/store/0000-source/tool.nix:7 has an unfree license (‘unfree’), \
             refusing to evaluate."
        );
    }
}
