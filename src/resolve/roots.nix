# Answers, for each attribute of an app's expression, which store paths to deploy.
#
# All arguments are strings, since they come from a command line: `source` is the app's source in
# the store, `file` the expression's file in it, `attributes` a JSON list of attributes, each with its
# `path` and the `outputs` to take (null: those that it says), `flake` the URL of the flake that the file
# is (empty: it is none), `system` the system to deploy to, `trees` a URL with which a source that is not in
# the store fails (empty: `builtins.fetchTree` is Nix's own).
{
  source,
  file,
  attributes,
  flake,
  system,
  trees,
}:
let
  # As nix-build does: a function is called with what its own defaults give.
  call = value: if builtins.isFunction value || value ? __functor then value { } else value;

  isFlake = flake != "";
  outputs = builtins.getFlake flake;
  # Where a flake's attribute is looked for, as `nix build` does, then as Hydra names its jobs.
  flakeValue = {
    packages = outputs.packages.${system} or { };
    legacyPackages = outputs.legacyPackages.${system} or { };
    inherit outputs;
  };
  flakeDefault =
    flakeValue.packages.default or outputs.defaultPackage.${system}
      or (throw "the flake has neither `packages.${system}.default` nor `defaultPackage.${system}`: name what to deploy in NIX_ATTRIBUTES");
  flakeAttribute =
    path:
    let
      places = builtins.filter (value: (get path [ ] value) ? found) [
        flakeValue.packages
        flakeValue.legacyPackages
        outputs
      ];
      names = value: if builtins.isAttrs value then builtins.attrNames value else [ ];
    in
    if places == [ ] then
      {
        missing = {
          at = [ ];
          name = builtins.concatStringsSep "." path;
          names = names flakeValue.packages ++ names flakeValue.legacyPackages ++ names outputs;
        };
      }
    else
      get path [ ] (builtins.head places);

  # Nix asks the store for what `fetchTarball` fetches, but not for what `fetchTree` does. So the app's own
  # files get one that takes what has a hash out of the store. What Nix's own would know of it besides ends
  # the evaluation.
  fetchTree =
    input:
    let
      of = name: input.${name} or (abort "`${name}` of what fetchTree fetches is not known");
    in
    if builtins.isAttrs input && input ? narHash then
      {
        inherit (input) narHash;
        outPath = fetchTarball {
          name = "source";
          url = trees;
          sha256 = input.narHash;
        };
        shortRev = builtins.substring 0 7 (of "rev");
      }
      // builtins.listToAttrs (
        map
          (name: {
            inherit name;
            value = of name;
          })
          [
            "rev"
            "revCount"
            "lastModified"
            "lastModifiedDate"
            "submodules"
          ]
      )
    else
      builtins.fetchTree input;
  isOwn = file: builtins.substring 0 (builtins.stringLength source) (toString file) == source;
  scope = {
    import = file: if isOwn file then builtins.scopedImport scope file else import file;
    builtins = builtins // {
      inherit fetchTree;
      inherit (scope) import;
    };
  };

  # The expression is imported from the store, so that `./.` in it is a path in the store.
  top = call ((if trees == "" then import else scope.import) (source + "/" + file));

  # The value at a path, called where it is a function, or the first name of the path that is missing:
  # after which others, and which there are.
  get =
    path: at: value:
    let
      name = builtins.head path;
    in
    if path == [ ] then
      { found = value; }
    else if !builtins.isAttrs value then
      {
        missing = {
          inherit at name;
          names = [ ];
        };
      }
    else if !value ? ${name} then
      {
        missing = {
          inherit at name;
          names = builtins.attrNames value;
        };
      }
    else
      get (builtins.tail path) (at ++ [ name ]) (call value.${name});

  # What nixpkgs's mkShell makes: for `nix-shell`, with nothing in it that could run.
  isShell =
    value:
    value.name or null == "nix-shell"
    || value ? nobuildPhase
    || (value ? shellHook && value.phases or null == [ "buildPhase" ]);

  isDerivation = value: builtins.isAttrs value && value.type or null == "derivation";
  derivationNames =
    value:
    builtins.filter (
      name:
      let
        tried = builtins.tryEval (isDerivation value.${name});
      in
      tried.success && tried.value
    ) (builtins.attrNames value);

  # The outputs that are named, or those that `nix profile` would install.
  chosen =
    outputs: value:
    if outputs == [ "*" ] then
      value.outputs or [ "out" ]
    else if outputs != null then
      outputs
    else if value.outputSpecified or false then
      [ value.outputName ]
    else
      value.meta.outputsToInstall or [ (value.outputName or "out") ];

  describe =
    attribute: outputs: value:
    let
      all = value.outputs or [ "out" ];
      unknown = builtins.filter (output: !builtins.elem output all) (
        if outputs == null || outputs == [ "*" ] then [ ] else outputs
      );
    in
    if isDerivation value && unknown != [ ] then
      {
        inherit attribute;
        kind = "missing";
        at = [ ];
        name = "^${builtins.head unknown}";
        names = map (output: "^${output}") all;
      }
    else if isDerivation value then
      {
        inherit attribute;
        kind = if isShell value then "shell" else "derivation";
        outputs = map (output: {
          inherit output;
          path = builtins.unsafeDiscardStringContext (value.${output} or value).outPath;
        }) (chosen outputs value);
        derivation =
          if value ? drvPath then builtins.unsafeDiscardStringContext value.drvPath else null;
        mainProgram = value.meta.mainProgram or null;
      }
    else
      {
        inherit attribute;
        kind = builtins.typeOf value;
        names = if builtins.isAttrs value then derivationNames value else [ ];
      };

  one =
    attribute:
    let
      got = if isFlake then flakeAttribute attribute.path else get attribute.path [ ] top;
    in
    if got ? found then
      describe attribute.text attribute.outputs got.found
    else
      {
        attribute = attribute.text;
        kind = "missing";
        inherit (got.missing) at name names;
      };

  wanted = builtins.fromJSON attributes;
in
if wanted == [ ] then
  [ (describe null null (if isFlake then flakeDefault else top)) ]
else
  map one wanted
