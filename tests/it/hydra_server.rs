//! A Hydra as its sources have it: the same paths, shapes, statuses, headers and sentences.
//!
//! Sources: `Controller/{Root,User,Jobset,JobsetEval,Job,Build,BuildStep}.pm`, `Component/ToJSON.pm`
//! and `Schema/Result/*.pm` of NixOS/hydra, and the examples of its `hydra-api.yaml`. Compared
//! with Hydra's own web server of August 2026, request by request. It returns HTML pages unless JSON is asked
//! for, and redirects to the URL that it takes for its own.

use platform::server::{Request, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

/// Evaluations on one page.
const PAGE: usize = 20;

pub const USER: &str = "deploy";
pub const PASSWORD: &str = "hunter2";
pub const COOKIE: &str = "hydra_session=0a1b2c3d4e5f60718293a4b5c6d7e8f901234567";
const ATTRIBUTES: &str = "; path=/; expires=Fri, 05-Feb-2038 10:00:00 GMT; HttpOnly; SameSite=Lax";

/// What happens to a Hydra before it answers: the state, and how often this was asked before.
type Event = Box<dyn FnMut(&mut State, usize) + Send>;

pub struct State {
    /// The URL that it takes for its own.
    pub base: String,
    pub private: bool,
    /// It has a `store_uri`, so it serves no binary cache.
    pub stores_elsewhere: bool,
    /// Where logs are that it does not have.
    pub log_prefix: Option<String>,
    pub jobset: Value,
    /// What `jobset/P/J/errors` adds.
    pub errormsg: String,
    /// Newest first.
    pub evals: Vec<Value>,
    /// The numbers of those that are of another jobset, `acme/other`.
    pub of_other: Vec<u64>,
    /// The build's number, of an evaluation's number and a job.
    pub jobs: BTreeMap<(u64, String), u64>,
    pub builds: BTreeMap<u64, Value>,
    pub steps: BTreeMap<(u64, u64), Value>,
    /// It is from before 2026, and shows no steps.
    pub is_old: bool,
    /// The builds of which a step is busy.
    pub busy: Vec<u64>,
    /// Revisions that it has fetched, whether or not they are in an evaluation, the oldest first.
    pub fetched: Vec<String>,
    /// By the derivation's base name.
    pub logs: BTreeMap<String, String>,
    asked: BTreeMap<String, usize>,
    event: Option<Event>,
}

#[derive(Clone)]
pub struct HydraServer(Arc<Mutex<State>>);

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A revision whose digits are all the same.
pub fn revision(digit: char) -> String {
    digit.to_string().repeat(40)
}

pub fn git(uri: &str, revision: &str) -> Value {
    json!({ "type": "git", "uri": uri, "revision": revision, "value": null, "dependency": null })
}

/// An evaluation as `json_hint` has it.
pub fn eval(id: u64, inputs: &Value) -> Value {
    json!({
        "id": id, "timestamp": 1_588_365_711, "checkouttime": 2, "evaltime": 7, "hasnewbuilds": 1,
        "flake": null, "builds": [id * 10], "jobsetevalinputs": inputs,
    })
}

/// A build that succeeded, as `as_json` has it.
pub fn build(id: u64, evals: &[u64], path: &str) -> Value {
    json!({
        "id": id, "finished": 1, "buildstatus": 0, "timestamp": 1_588_365_711,
        "starttime": 1_588_365_711, "stoptime": 1_588_365_712, "project": "acme", "jobset": "main",
        "job": "myapp", "nixname": "myapp", "system": "x86_64-linux", "priority": 100,
        "releasename": null, "drvpath": "/nix/store/ab9zv2y5gm8hr6g318p0s6kaclwj4slr-myapp.drv",
        "jobsetevals": evals, "buildmetrics": {}, "buildoutputs": { "out": { "path": path } },
        "buildproducts": { "1": {
            "filesize": null, "defaultpath": "", "name": "myapp", "type": "nix-build",
            "sha256hash": null, "subtype": "", "path": path,
        } },
    })
}

impl Default for State {
    fn default() -> Self {
        Self {
            base: "http://hydra.internal:8080".to_string(),
            private: false,
            stores_elsewhere: false,
            log_prefix: None,
            jobset: json!({
                // It is when it was last evaluated, with an error or without.
                "errortime": now() - 240, "lastcheckedtime": now() - 240, "triggertime": null,
                "enabled": 1, "keepnr": 3, "checkinterval": 300, "schedulingshares": 100,
                "starttime": null, "name": "main", "project": "acme", "description": "",
                "nixexprinput": "my-project", "nixexprpath": "release.nix", "errormsg": "",
                "emailoverride": "", "fetcherrormsg": "", "type": 0, "flake": "",
                "enableemail": false, "enable_dynamic_run_command": false, "visible": true,
                "inputs": {},
            }),
            errormsg: String::new(),
            evals: Vec::new(),
            of_other: Vec::new(),
            jobs: BTreeMap::new(),
            builds: BTreeMap::new(),
            steps: BTreeMap::new(),
            is_old: false,
            busy: Vec::new(),
            fetched: Vec::new(),
            logs: BTreeMap::new(),
            asked: BTreeMap::new(),
            event: None,
        }
    }
}

impl State {
    /// An evaluation with one build of `myapp`.
    pub fn add(&mut self, eval: Value, build: Value) {
        let number = |value: &Value| value["id"].as_u64().unwrap();
        self.jobs
            .insert((number(&eval), "myapp".to_string()), number(&build));
        self.builds.insert(number(&build), build);
        self.evals.insert(0, eval);
    }

    /// How often a path was asked for, of those that events are for.
    pub fn times(&self, path: &str) -> usize {
        self.asked.get(path).copied().unwrap_or_default()
    }

    fn find_eval(&self, number: &str) -> Option<&Value> {
        self.evals
            .iter()
            .find(|eval| number.parse() == Ok(eval["id"].as_u64().unwrap()))
    }
}

impl HydraServer {
    pub fn new(fill: impl FnOnce(&mut State)) -> Self {
        let mut state = State::default();
        fill(&mut state);
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Lets things happen while it is asked for evaluations and builds.
    pub fn on(&self, event: impl FnMut(&mut State, usize) + Send + 'static) {
        self.state().event = Some(Box::new(event));
    }

    /// For [`platform::server::Server::with_hook`]; what is no question for Hydra is left to it.
    pub fn hook(&self) -> impl Fn(&Request) -> Option<Response> + Send + Sync + 'static {
        let this = self.clone();
        move |request| {
            let answer = this.state().answer(request)?;
            if request.path == "/login" {
                return Some(answer);
            }
            // A session is prolonged with each answer, and begun with the first.
            let session = request
                .header("cookie")
                .unwrap_or("hydra_session=anonymous");
            Some(answer.header("Set-Cookie", &format!("{session}{ATTRIBUTES}")))
        }
    }
}

impl State {
    #[allow(
        clippy::too_many_lines,
        reason = "a table of requests, a few lines each"
    )]
    fn answer(&mut self, request: &Request) -> Option<Response> {
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        if path == "/login" {
            return Some(self.login(request));
        }
        let signed_in = request.header("cookie") == Some(COOKIE);
        if self.private && !signed_in {
            let said = "This page requires you to sign in.";
            return Some(error(request, 403, said));
        }
        if let ["jobset" | "build", ..] = parts[..]
            && let Some(mut event) = self.event.take()
        {
            let times = self.asked.entry(path.clone()).or_default();
            let before = *times;
            *times += 1;
            event(self, before);
            self.event = Some(event);
        }
        let found = match parts[..] {
            ["jobset", "acme", "main"] => Ok(self.jobset.clone()),
            ["jobset", "acme", "main", "errors"] => {
                let mut jobset = self.jobset.clone();
                jobset["errormsg"] = json!(self.errormsg);
                Ok(jobset)
            }
            ["jobset", "acme", "main", "evals"] => Ok(self.page(&request.query)),
            ["jobset", "acme", "old"] | ["jobset", "acme", "old", ..] => {
                let rest = path.replacen("/old", "/main", 1);
                let query = match request.query.as_str() {
                    "" => String::new(),
                    query => format!("?{query}"),
                };
                return Some(redirect(301, &format!("{}{rest}{query}", self.base)));
            }
            // What follows the job is lost.
            ["job", "acme", "old", job, action, ..] => {
                let to = format!("{}/job/acme/main/{job}/{action}", self.base);
                return Some(redirect(301, &to));
            }
            // PostgreSQL's integers have 32 bits.
            ["eval" | "build", number, ..] if number.parse::<i32>().is_err() => {
                let said = "DBIx::Class::Storage::DBI::_dbh_execute(): DBI Exception: invalid input syntax";
                return Some(error(request, 500, said));
            }
            ["api", "scmdiff"] => return Some(self.difference(&request.query)),
            ["jobset", "acme", name, ..] => Err(format!("Jobset ‘{name}’ doesn't exist.")),
            ["jobset", name, ..] => Err(format!("Project ‘{name}’ doesn't exist.")),
            ["eval", number] if request.header("accept") != Some("application/json") => {
                return self.find_eval(number).map(|eval| self.html_of(eval));
            }
            ["eval", number] => self
                .find_eval(number)
                .cloned()
                .ok_or_else(|| format!("Evaluation {number} doesn't exist.")),
            ["eval", number, "builds"] => {
                let number: u64 = number.parse().unwrap();
                let of = |((eval, _), build): (&(u64, String), &u64)| {
                    (*eval == number).then(|| self.builds[build].clone())
                };
                Ok(self.jobs.iter().filter_map(of).collect())
            }
            ["eval", number, "job", job] => {
                match self.jobs.get(&(number.parse().unwrap(), job.to_string())) {
                    Some(build) => {
                        return Some(redirect(302, &format!("{}/build/{build}", self.base)));
                    }
                    None => Err("This evaluation has no job with the specified name.".to_string()),
                }
            }
            ["job", "acme", "main", _, "latest-for"] => {
                Err("You need to specify a platform type in the URL.".to_string())
            }
            ["job", "acme", "main", job, "latest-for", system] => {
                let newest = self.builds.iter().rev().find(|(_, build)| {
                    build["job"] == job
                        && build["buildstatus"] == 0
                        && build["finished"] == 1
                        && build["system"] == system
                });
                match newest {
                    Some((build, _)) => {
                        return Some(redirect(302, &format!("{}/build/{build}", self.base)));
                    }
                    None => Err(format!(
                        "There is no successful build for platform `{system}' to redirect to."
                    )),
                }
            }
            // The project is not looked for.
            ["job", _, jobset, ..] => Err(format!("Jobset ‘{jobset}’ doesn't exist.")),
            ["build", number] => self
                .builds
                .get(&number.parse().unwrap())
                .cloned()
                .ok_or_else(|| format!("Build with ID {number} doesn't exist.")),
            ["build", _, "step", _] if self.is_old => Err("Page not found.".to_string()),
            ["status"] => {
                let busy = self.busy.iter().map(|build| {
                    let mut build = self.builds[build].clone();
                    // Lists leave columns out.
                    for null in ["drvpath", "starttime", "priority"] {
                        build[null] = Value::Null;
                    }
                    build
                });
                Ok(busy.collect())
            }
            ["build", number, "step", step] => self
                .steps
                .get(&(number.parse().unwrap(), step.parse().unwrap()))
                .cloned()
                .ok_or_else(|| format!("Build doesn't have a build step {step}.")),
            ["log", derivation] => return Some(self.log(request, derivation)),
            ["search"] => {
                let query = request.query.trim_start_matches("query=");
                let mut builds: Vec<_> = self.builds.values().cloned().collect();
                builds.retain(|build| build["drvpath"].as_str().unwrap().contains(query));
                builds.reverse();
                Ok(json!({ "projects": [], "jobsets": [], "builds": [], "buildsdrv": builds }))
            }
            ["api", "queue"] => Ok(json!([])),
            _ if self.stores_elsewhere => Err("There is no binary cache here.".to_string()),
            _ => return None,
        };
        Some(match found {
            Ok(value) => json_or_page(request, 200, &value),
            Err(said) => error(request, 404, &said),
        })
    }

    fn page(&self, query: &str) -> Value {
        let number: Result<usize, _> = query.trim_start_matches("page=").parse();
        let number = number.unwrap_or_default().max(1);
        let listed = || self.evals.iter().filter(|eval| eval["hasnewbuilds"] == 1);
        let pages = listed().count().div_ceil(PAGE);
        let evals: Vec<_> = listed().skip((number - 1) * PAGE).take(PAGE).collect();
        let mut page = json!({
            "evals": evals, "first": "?page=1", "last": format!("?page={pages}"),
        });
        if number > 1 {
            page["previous"] = json!(format!("?page={}", number - 1));
        }
        if number < pages {
            page["next"] = json!(format!("?page={}", number + 1));
        }
        page
    }

    fn html_of(&self, eval: &Value) -> Response {
        let other = self.of_other.contains(&eval["id"].as_u64().unwrap());
        let jobset = if other { "other" } else { "main" };
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><a class=\"dropdown-item\"href=\"{}/jobset/acme/{jobset}\" >\
             Overview</a></html>",
            self.base
        );
        Response::new(200)
            .header("Vary", "Accept")
            .header("Content-Type", "text/html; charset=UTF-8")
            .body(page)
    }

    /// `scmdiff`: the commits after `rev1` up to `rev2`, and how their files differ.
    fn difference(&self, query: &str) -> Response {
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
        let age = |name: &str| {
            let revision = parameter(name).unwrap();
            self.fetched.iter().position(|known| known == revision)
        };
        let diff = match (age("rev1="), age("rev2=")) {
            (Some(one), Some(two)) if one < two => {
                "commit 2\nAuthor: t\n\n    c\ndiff --git a/x b/x\n"
            }
            (Some(one), Some(two)) if one > two => "diff --git a/x b/x\n",
            _ => " ",
        };
        Response::new(200)
            .header("Vary", "Accept")
            .header("Content-Type", "text/plain; charset=utf-8")
            .body(diff)
    }

    fn login(&self, request: &Request) -> Response {
        let referer = request.header("referer").unwrap_or_default();
        if !format!("{referer}/").starts_with(&format!("{}/", self.base)) {
            let said = format!("POST requests should come from ‘{}/’.", self.base);
            return error(request, 500, &said);
        }
        assert_eq!(request.header("content-type"), Some("application/json"));
        let sent: Value = serde_json::from_slice(&request.body).unwrap();
        if sent != json!({ "username": USER, "password": PASSWORD }) {
            return error(request, 403, "Bad username or password.");
        }
        let cookie = format!("{COOKIE}{ATTRIBUTES}");
        let user = json!({
            "username": USER, "fullname": "", "emailaddress": "", "userroles": [],
        });
        json_or_page(request, 302, &user)
            .header("Location", &format!("{}/current-user", self.base))
            .header("Set-Cookie", &cookie)
    }

    fn log(&self, request: &Request, derivation: &str) -> Response {
        match (self.logs.get(derivation), &self.log_prefix) {
            (Some(log), _) => {
                let tail: usize = request.query.trim_start_matches("tail=").parse().unwrap();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(tail)..].join("\n");
                Response::new(200)
                    .header("Content-Type", "text/plain")
                    .body(last)
            }
            (None, Some(prefix)) => redirect(302, &format!("{prefix}log/{derivation}")),
            (None, None) => {
                let said = format!("The build log of /nix/store/{derivation} is not available.");
                error(request, 404, &said)
            }
        }
    }
}

fn redirect(status: u16, to: &str) -> Response {
    let page = format!("<html><body>This item has moved <a href=\"{to}\">here</a>.</body></html>");
    Response::new(status)
        .header("Location", to)
        .header("Content-Type", "text/html; charset=utf-8")
        .header("Vary", "Accept")
        .body(page)
}

fn error(request: &Request, status: u16, said: &str) -> Response {
    json_or_page(request, status, &json!({ "error": said }))
}

fn json_or_page(request: &Request, status: u16, value: &Value) -> Response {
    let answer = Response::new(status).header("Vary", "Accept");
    if request.header("accept") == Some("application/json") {
        answer
            .header("Content-Type", "application/json")
            .body(value.to_string())
    } else {
        answer
            .header("Content-Type", "text/html; charset=utf-8")
            .body("<!DOCTYPE html>\n<html lang=\"en\">…</html>")
    }
}
