use super::*;

fn read(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let app = tempfile::tempdir().unwrap();
    for file in ["default.nix", "shell.nix"] {
        std::fs::write(app.path().join(file), "").unwrap();
    }
    let get = |name: &str| {
        settings
            .iter()
            .find(|(set, _)| *set == name)
            .map(|(_, value)| (*value).to_string())
    };
    Config::read(get, app.path())
}

fn only_problem(settings: &[(&str, &str)]) -> Problem {
    let ConfigError(problems) = read(settings).unwrap_err();
    let [only] = problems.try_into().unwrap();
    only
}

fn expression(settings: &[(&str, &str)]) -> Expression {
    match read(settings).unwrap().wanted {
        Wanted::Expression(expression) => expression,
        other => panic!("an expression, not {other:?}"),
    }
}

#[test]
fn without_settings_the_first_known_file_is_deployed_from_the_default_cache() {
    let config = read(&[]).unwrap();
    assert_eq!(expression(&[]).file, Path::new("shell.nix"));
    assert_eq!(config.caches.len(), 1);
    assert_eq!(config.caches[0].to_string(), "https://cache.nixos.org");
    assert!(config.caches[0].must_sign, "its key is known");
    assert!(!config.trust.required);
    assert_eq!(config.source_name, "source");
}

#[test]
fn several_caches_come_before_the_default_one() {
    let config = read(&[(
        "NIX_EXTRA_BINARY_CACHE",
        "http://hydra.acme.net:3000  file:///cache",
    )]);
    let names: Vec<_> = config
        .unwrap()
        .caches
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        names,
        [
            "http://hydra.acme.net:3000",
            "file:///cache",
            "https://cache.nixos.org"
        ]
    );
}

#[test]
fn the_default_cache_can_be_left_out() {
    assert!(
        read(&[("NIX_DEFAULT_BINARY_CACHE", "")])
            .unwrap()
            .caches
            .is_empty()
    );
}

#[test]
fn only_who_asks_for_it_or_names_no_cache_gets_anything_built() {
    let none = ("NIX_DEFAULT_BINARY_CACHE", "");
    for (settings, on_miss) in [
        (&[][..], OnMiss::Error),
        (&[("NIX_ON_MISS", "build")], OnMiss::Build),
        (&[none], OnMiss::Build),
        (
            &[none, ("NIX_HYDRA_URL", "http://hydra.acme.net")],
            OnMiss::Error,
        ),
        (&[none, ("NIX_ON_MISS", "error")], OnMiss::Error),
    ] {
        assert_eq!(read(settings).unwrap().on_miss, on_miss, "{settings:?}");
    }
}

#[test]
fn naming_a_key_makes_signatures_required() {
    let key = "acme:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    let trust = read(&[("NIX_TRUSTED_PUBLIC_KEYS", key)]).unwrap().trust;
    assert!(trust.required);
    assert_eq!(trust.keys.len(), 2);
}

#[test]
fn attributes_are_split_at_spaces_and_the_target_is_one_of_them() {
    let settings = [("NIX_ATTRIBUTES", "web  worker"), ("NIX_TARGET", "worker")];
    let expression = expression(&settings);
    let texts: Vec<_> = expression
        .attributes
        .iter()
        .map(|one| one.text.as_str())
        .collect();
    assert_eq!(texts, ["web", "worker"]);
    assert_eq!(expression.target.as_deref(), Some("worker"));
}

#[test]
fn a_store_path_needs_no_expression() {
    let path = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0";
    let wanted = read(&[("NIX_STORE_PATH", path)]).unwrap().wanted;
    assert_eq!(wanted, Wanted::StorePath(path.parse().unwrap()));
}

#[test]
fn values_that_make_no_sense_are_named_with_their_setting() {
    for (name, value) in [
        ("NIX_EXTRA_BINARY_CACHE", "hydra.acme.net"),
        ("NIX_EXTRA_BINARY_CACHE", "s3://bucket?scheme=ftp"),
        ("NIX_EXTRA_BINARY_CACHE", "file://cache/nix"),
        (
            "NIX_EXTRA_BINARY_CACHE",
            "http://hydra.acme.net?priority=high",
        ),
        ("NIX_REQUIRE_SIGNATURES", "maybe"),
        ("NIX_NETRC_FILE", "/nonexistent/netrc"),
        ("NIX_STORE_PATH", "/nix/store/short-myapp"),
        (
            "NIX_STORE_PATH",
            "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp.drv",
        ),
        ("NIX_FILE", "../outside.nix"),
        ("NIX_FILE", "missing.nix"),
        ("NIX_SOURCE_NAME", "a/b"),
        ("NIX_ON_MISS", "compile"),
        ("NIX_DEBUG", "loud"),
        ("NIX_ENGINE", "docker"),
        ("NIX_PROCFILE", "missing"),
        ("NIX_RELOCATE_IGNORE", "a***b"),
        ("NIX_CLOSURE_LIMIT", "300 apples"),
        ("NIX_CLOSURE_LIMIT", "-1MB"),
        ("NIX_FORBID", "a***b"),
        ("NIX_HYDRA_JOB", "acme/main"),
        ("NIX_HYDRA_JOB", "acme/main/my app"),
        ("NIX_HYDRA_URL", "file:///hydra"),
        ("NIX_REVISION", "main"),
        ("NIX_REVISION", "abc12"),
        ("NIX_HYDRA_WAIT", "soon"),
        ("NIX_HYDRA_WAIT", "10 parsecs"),
        ("NIX_HYDRA_INPUTS", "nixpkgs"),
    ] {
        match only_problem(&[(name, value)]) {
            Problem::Invalid { setting, invalid } => {
                assert_eq!((setting.name, &*invalid.shown), (name, value));
            }
            other => panic!("{name}={value} gave {other:?}"),
        }
    }
}

#[test]
fn credentials_come_from_a_netrc_file_and_a_binding_and_stay_with_their_host() {
    use http_client::Credentials;
    let bindings = tempfile::tempdir().unwrap();
    let binding = bindings.path().join("cache");
    std::fs::create_dir(&binding).unwrap();
    for (name, text) in [
        ("type", "nix-binary-cache"),
        ("url", "https://bound.net"),
        ("token", "t"),
        ("netrc", "machine named.net login n password p"),
        (
            "public-key",
            "acme:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
        ),
    ] {
        std::fs::write(binding.join(name), text).unwrap();
    }
    let netrc = bindings.path().join("netrc");
    std::fs::write(&netrc, "machine filed.net login f password q").unwrap();
    let config = read(&[
        (
            "NIX_EXTRA_BINARY_CACHE",
            "http://named.net http://filed.net:5000/x https://bound.net/ http://u:v@named.net/y",
        ),
        ("SERVICE_BINDING_ROOT", bindings.path().to_str().unwrap()),
        ("NIX_NETRC_FILE", netrc.to_str().unwrap()),
    ])
    .unwrap();
    assert!(config.trust.required, "the binding has a key");
    let basic = |user: &str, password: &str| {
        Some(Credentials::Basic {
            user: user.into(),
            password: password.into(),
        })
    };
    let expected = [
        ("http://named.net", basic("n", "p")),
        ("http://filed.net:5000/x", basic("f", "q")),
        ("https://bound.net", Some(Credentials::Bearer("t".into()))),
        ("http://named.net/y", basic("u", "v")),
        ("https://cache.nixos.org", None),
    ];
    assert_eq!(config.caches.len(), expected.len());
    for (cache, (url, credentials)) in config.caches.iter().zip(expected) {
        assert_eq!(cache.to_string(), url);
        assert!(cache.endpoint.credentials == credentials, "{url}");
    }
}

#[test]
fn a_binding_of_the_default_cache_gives_it_credentials_and_leaves_it_last() {
    let bindings = tempfile::tempdir().unwrap();
    for (name, url) in [("1", "https://default.net"), ("2", "https://other.net")] {
        let binding = bindings.path().join(name);
        std::fs::create_dir(&binding).unwrap();
        for (file, text) in [("type", "nix-binary-cache"), ("url", url), ("token", "t")] {
            std::fs::write(binding.join(file), text).unwrap();
        }
    }
    let caches = read(&[
        ("NIX_DEFAULT_BINARY_CACHE", "https://default.net/"),
        ("SERVICE_BINDING_ROOT", bindings.path().to_str().unwrap()),
    ]);
    let caches = caches.unwrap().caches;
    let names: Vec<_> = caches.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["https://other.net", "https://default.net"]);
    assert!(
        caches
            .iter()
            .all(|cache| cache.endpoint.credentials.is_some())
    );
}

#[test]
fn a_job_is_deployed_unless_its_jobset_s_inputs_are_to_be_evaluated_with() {
    let job = ("NIX_HYDRA_JOB", "acme:main:my-app.x86_64-linux");
    let config = read(&[job]).unwrap();
    let Wanted::HydraJob(wanted, Some(expression)) = config.wanted else {
        panic!("{:?}", config.wanted);
    };
    assert_eq!(wanted.to_string(), job.1);
    assert_eq!(expression.file, Path::new("shell.nix"));
    let config = read(&[job, ("NIX_HYDRA_INPUTS", "1")]).unwrap();
    assert!(matches!(config.wanted, Wanted::Expression(_)));
    assert!(matches!(
        only_problem(&[("NIX_HYDRA_INPUTS", "1")]),
        Problem::MissingPartner { .. }
    ));
}

#[test]
fn the_revision_is_the_user_s_else_one_of_the_platform_s_that_looks_like_one() {
    let revision = |settings: &[(&str, &str)]| {
        let revision = read(settings).unwrap().hydra.revision;
        revision.map(|revision| (revision.from, revision.name))
    };
    let platform = [("SOURCE_VERSION", "v1.2"), ("GIT_REV", "ABCDEF0")];
    let expected = |from: &str, name: &str| Some((from.to_string(), name.to_string()));
    assert_eq!(revision(&platform), expected("GIT_REV", "abcdef0"));
    assert_eq!(revision(&platform[..1]), None);
    let named = [platform[1], ("NIX_REVISION", "latest")];
    assert_eq!(revision(&named), expected("NIX_REVISION", "latest"));
}

#[test]
fn the_wait_is_in_minutes_unless_it_has_a_unit() {
    for (value, seconds) in [
        ("0", 0),
        ("5", 300),
        ("90s", 90),
        ("10 m", 600),
        ("2h", 7200),
        ("1h30m", 5400),
        ("10M", 600),
    ] {
        let config = read(&[("NIX_HYDRA_WAIT", value)]).unwrap();
        assert_eq!(config.hydra.wait, Duration::from_secs(seconds), "{value}");
    }
    assert_eq!(read(&[]).unwrap().hydra.wait, Duration::from_mins(10));
}

#[test]
fn a_hydra_has_the_credentials_of_its_host() {
    use http_client::Credentials;
    let config = read(&[
        ("NIX_EXTRA_BINARY_CACHE", "https://u:p@hydra.net"),
        ("NIX_HYDRA_URL", "https://hydra.net"),
    ]);
    let credentials = config.unwrap().hydra.url.unwrap().credentials;
    let expected = Credentials::Basic {
        user: "u".into(),
        password: "p".into(),
    };
    assert!(credentials == Some(expected));
}

#[test]
fn a_wrong_url_is_shown_without_its_password() {
    match only_problem(&[("NIX_EXTRA_BINARY_CACHE", "ftp://user:hunter2@example.org")]) {
        Problem::Invalid { invalid, .. } => {
            assert_eq!(invalid.shown, "ftp://example.org/");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_download_needs_both_its_url_and_its_hash() {
    let url = ("NIX_PROOT_URL", "file:///proot");
    assert!(matches!(
        only_problem(&[url]),
        Problem::MissingPartner {
            name: "NIX_PROOT_URL",
            partner: "NIX_PROOT_SHA256"
        }
    ));
    let hex = "11".repeat(32);
    assert!(matches!(
        only_problem(&[("NIX_ARCHIVE_SHA256", &hex)]),
        Problem::MissingPartner { .. }
    ));
    assert!(matches!(
        only_problem(&[url, ("NIX_PROOT_SHA256", "xyz")]),
        Problem::Invalid { setting, .. } if setting.name == "NIX_PROOT_SHA256"
    ));
    for hash in [&*hex, "sha256-ERERERERERERERERERERERERERERERERERERERERERE="] {
        let config = read(&[url, ("NIX_PROOT_SHA256", hash)]).unwrap();
        assert_eq!(config.proot.unwrap().sha256, [0x11; 32], "{hash}");
    }
}

#[test]
fn the_sample_project_toml_has_settings_that_are_read() {
    let project: toml::Table = toml::from_str(include_str!("../../docs/project.toml")).unwrap();
    let env = project["io"]["buildpacks"]["build"]["env"]
        .as_array()
        .unwrap();
    let settings: Vec<_> = env
        .iter()
        .map(|pair| {
            (
                pair["name"].as_str().unwrap(),
                pair["value"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(settings.iter().all(|(name, _)| setting(name).is_some()));
    let config = read(&settings).unwrap();
    assert!(config.trust.required);
    assert_eq!(config.caches[0].to_string(), "https://hydra.acme.net");
}

#[test]
fn a_cache_below_a_path_that_is_like_a_page_of_hydra_is_taken() {
    for url in [
        "https://ci.acme.net/job/app/lastSuccessfulBuild/artifact/nix/cache",
        "https://ci.acme.net/build/17/cache",
        "https://cache.acme.net/nix,stable",
    ] {
        let config = read(&[("NIX_EXTRA_BINARY_CACHE", url)]).unwrap();
        assert_eq!(config.caches[0].to_string(), url);
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let error = read(&[
        ("NIX_DEBUG", "loud"),
        ("NIX_EXTRA_BINARY_CACHE", "ftp://acme"),
        ("NIX_TARGET", "web"),
        ("NIX_PROOT_URL", "file:///proot"),
        ("NIX_HYDRA_INPUTS", "true"),
    ]);
    let ConfigError(problems) = error.unwrap_err();
    assert_eq!(problems.len(), 5, "{problems:?}");
}

#[test]
fn a_wrong_setting_brings_no_other_error_with_it() {
    for settings in [
        &[("NIX_STORE_PATH", "short")][..],
        &[("NIX_HYDRA_JOB", "acme"), ("NIX_HYDRA_INPUTS", "true")],
        &[
            ("NIX_PROOT_URL", "ftp://x"),
            ("NIX_PROOT_SHA256", &"1".repeat(64)),
        ],
    ] {
        only_problem(settings);
    }
    let nowhere = Path::new("/nonexistent");
    let get = |name: &str| (name == "NIX_FILE").then(|| "missing.nix".to_string());
    let ConfigError(problems) = Config::read(get, nowhere).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let ConfigError(problems) = Config::read(|_| None, nowhere).unwrap_err();
    assert!(matches!(problems[..], [Problem::NothingToDeploy]));
}
