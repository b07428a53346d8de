# Stands in for an unpinned `<nixpkgs>`, so that an expression can fetch the nixpkgs that it pins.
#
# The store path of what is fetched follows from its hash and name alone, so these few lines give the
# one that nixpkgs's own fetchers give. Each result is a derivation, as theirs is: a derivation that
# uses it gets the same path as well. Its content is fetched as soon as its path is asked for, from a
# binary cache or else from its URL, so that there is nothing to build.
{ ... }:
let
  # Names that an expression was seen to take, and that are not here.
  missing = import ./missing.nix;

  hashOf =
    arguments:
    let
      hash =
        arguments.hash or arguments.sha256 or arguments.outputHash
          or (throw "nix-hydra: a fetcher of <nixpkgs> is called without `hash` or `sha256`");
    in
    if builtins.match "(sha1|sha512|md5|blake3)-.*" hash == null then
      hash
    else
      throw "nix-hydra: a fetcher of <nixpkgs>, which is not pinned, is called with a hash that is not SHA-256";

  refuse =
    fetcher: arguments: names:
    let
      used = builtins.filter (
        name:
        !(builtins.elem (arguments.${name} or null) [
          null
          false
          ""
          [ ]
        ])
      ) names;
    in
    if used == [ ] then
      null
    else
      throw "nix-hydra: `${fetcher}` of <nixpkgs>, which is not pinned, cannot be used with `${builtins.head used}` here";

  fixed =
    {
      name,
      hash,
      mode,
      fetched,
    }:
    attributes:
    let
      drv = derivation {
        inherit name;
        system = "builtin";
        builder = "builtin:fetched-while-evaluating";
        outputHash = hash;
        outputHashAlgo = "sha256";
        outputHashMode = mode;
      };
      self = drv // attributes // {
        outPath = builtins.seq fetched drv.outPath;
        out = self;
      };
    in
    self;

  tarball =
    {
      name,
      url,
      hash,
    }:
    fixed {
      inherit name hash;
      mode = "recursive";
      fetched = builtins.fetchTarball {
        inherit name url;
        sha256 = hash;
      };
    } { inherit url; };

  git =
    {
      name,
      url,
      rev,
      hash,
      submodules,
    }:
    let
      tree = builtins.fetchTree {
        type = "git";
        inherit url submodules;
        ${if isRevision rev then "rev" else "ref"} = rev;
        shallow = true;
        narHash = builtins.convertHash {
          inherit hash;
          hashAlgo = "sha256";
          toHashFormat = "sri";
        };
      };
    in
    fixed {
      inherit name hash;
      mode = "recursive";
      fetched =
        if builtins ? fetchTree then
          builtins.path {
            inherit name;
            path = tree.outPath;
            sha256 = hash;
          }
        else
          # Only the store is asked, which is not possible with `fetchTree`.
          fetchTarball {
            inherit name;
            url = import ./nowhere.nix;
            sha256 = hash;
          };
    } { inherit url rev; };

  # What a git host's fetcher does: an archive, or a checkout where only that will do.
  fromHost =
    fetcher:
    {
      archive,
      repository,
    }:
    arguments:
    let
      name = arguments.name or "source";
      hash = hashOf arguments;
      rev =
        if arguments.tag or null != null then "refs/tags/${arguments.tag}" else arguments.rev;
      checkout = arguments.fetchSubmodules or false || arguments.forceFetchGit or false;
    in
    builtins.seq
      (refuse fetcher arguments [
        "leaveDotGit"
        "deepClone"
        "sparseCheckout"
        "rootDir"
        "postFetch"
        "private"
        "fetchLFS"
      ])
      (
        (
          if checkout then
            git {
              inherit name rev hash;
              url = repository;
              submodules = arguments.fetchSubmodules or false;
            }
          else
            tarball {
              inherit name hash;
              url = archive rev;
            }
        )
        // builtins.intersectAttrs {
          owner = null;
          repo = null;
          tag = null;
        } arguments
        // {
          rev = arguments.rev or rev;
        }
      );

  escape = builtins.replaceStrings [ "." "/" ] [ "%2E" "%2F" ];

  isRevision = rev: builtins.match "[0-9a-f]{40}" rev != null;

  # What nixpkgs calls a checkout that is given no name: after the URL, and the revision if it is one.
  gitName =
    url: rev:
    let
      trimmed = builtins.head (builtins.match "(.*[^/])/*" url);
      base = builtins.elemAt (builtins.match "(.*:)?([^:]*)" (baseNameOf trimmed)) 1;
      bare = builtins.match "(.*).git" base;
    in
    (if bare == null then base else builtins.head bare)
    + (if builtins.match "[0-9a-f]*" rev == null then "" else "-${builtins.substring 0 7 rev}");

  here = rec {
    fetchFromGitHub =
      arguments:
      let
        base = "https://${arguments.githubBase or "github.com"}/${arguments.owner}/${arguments.repo}";
      in
      fromHost "fetchFromGitHub" {
        archive = rev: "${base}/archive/${rev}.tar.gz";
        repository = "${base}.git";
      } arguments;

    fetchFromGitLab =
      arguments:
      let
        domain = "https://${arguments.domain or "gitlab.com"}";
        group = if arguments.group or null == null then [ ] else [ arguments.group ];
        path = group ++ [
          arguments.owner
          arguments.repo
        ];
        slug = builtins.concatStringsSep "%2F" (map escape path);
      in
      fromHost "fetchFromGitLab" {
        archive =
          rev: "${domain}/api/v4/projects/${slug}/repository/archive.tar.gz?sha=${escape rev}";
        repository = "${domain}/${builtins.concatStringsSep "/" path}.git";
      } arguments;

    fetchzip =
      arguments:
      builtins.seq
        (refuse "fetchzip" arguments [
          "postFetch"
          "extraPostFetch"
        ])
        (
          if arguments.stripRoot or true then
            tarball {
              name = arguments.name or "source";
              url = arguments.url or (builtins.head arguments.urls);
              hash = hashOf arguments;
            }
          else
            throw "nix-hydra: `fetchzip` of <nixpkgs>, which is not pinned, cannot be used with `stripRoot = false` here"
        );

    fetchurl =
      arguments:
      let
        url = arguments.url or (builtins.head arguments.urls);
        name =
          if arguments.name or "" == "" then baseNameOf (toString url) else arguments.name;
        hash = hashOf arguments;
      in
      builtins.seq
        (refuse "fetchurl" arguments [
          "postFetch"
          "downloadToTemp"
          "recursiveHash"
          "executable"
        ])
        (
          fixed {
            inherit name hash;
            mode = "flat";
            fetched = builtins.fetchurl {
              inherit name url;
              sha256 = hash;
            };
          } { inherit url; }
        );

    fetchgit =
      arguments:
      builtins.seq
        (refuse "fetchgit" arguments [
          "leaveDotGit"
          "deepClone"
          "sparseCheckout"
          "rootDir"
          "postFetch"
          "fetchLFS"
        ])
        (git {
          # As nixpkgs names it: after the URL's last part, without `.git`, and the revision.
          name = arguments.name or (gitName arguments.url arguments.rev);
          inherit (arguments) url rev;
          hash = hashOf arguments;
          submodules = arguments.fetchSubmodules or true;
        });

    inherit (builtins) fetchTarball;

    pkgs = here;
  };
in
builtins.listToAttrs (
  map (name: {
    inherit name;
    value = throw "nix-hydra: `${name}` is taken from an unpinned <nixpkgs>";
  }) missing
)
// here
