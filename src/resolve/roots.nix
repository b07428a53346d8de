# Answers, for each attribute of an app's expression, which store paths to deploy.
#
# All arguments are strings, since they come from a command line: `source` is the app's source in
# the store, `file` the expression's file in it, `attributes` a JSON list of attribute paths, `flake`
# the URL of the flake that the file is (empty: it is none), `system` the system to deploy to.
{
  source,
  file,
  attributes,
  flake,
  system,
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
      places = builtins.filter (value: has path value) [
        flakeValue.packages
        flakeValue.legacyPackages
        outputs
      ];
    in
    if places == [ ] then
      throw "the flake has no attribute `${builtins.concatStringsSep "." path}`, neither in `packages.${system}` and `legacyPackages.${system}` nor at its top"
    else
      get path (builtins.head places);

  # The expression is imported from the store, so that `./.` in it is a path in the store.
  top = call (import (source + "/" + file));

  split = path: builtins.filter builtins.isString (builtins.split "\\." path);
  has =
    path: value:
    path == [ ]
    || (
      builtins.isAttrs value
      && value ? ${builtins.head path}
      && has (builtins.tail path) value.${builtins.head path}
    );
  get =
    path: value:
    if path == [ ] then
      value
    else
      get (builtins.tail path) (
        call (
          value.${builtins.head path}
            or (throw "attribute `${builtins.head path}` is missing; there are: ${builtins.concatStringsSep ", " (builtins.attrNames value)}")
        )
      );

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

  # The outputs that `nix profile` would install, or just the one that was named.
  chosen =
    value:
    if value.outputSpecified or false then
      [ value.outputName ]
    else
      value.meta.outputsToInstall or [ (value.outputName or "out") ];

  describe =
    attribute: value:
    if isDerivation value then
      {
        inherit attribute;
        kind = if isShell value then "shell" else "derivation";
        derivations = [ ];
        outputs = map (output: {
          inherit output;
          path = builtins.unsafeDiscardStringContext (value.${output} or value).outPath;
        }) (chosen value);
        derivation =
          if value ? drvPath then builtins.unsafeDiscardStringContext value.drvPath else null;
        mainProgram = value.meta.mainProgram or null;
      }
    else
      {
        inherit attribute;
        kind = builtins.typeOf value;
        derivations = if builtins.isAttrs value then derivationNames value else [ ];
        outputs = [ ];
        derivation = null;
        mainProgram = null;
      };

  names = builtins.fromJSON attributes;
  one =
    name:
    if isFlake then
      flakeAttribute (split name)
    else
      get (split name) top;
in
if names == [ ] then
  [ (describe null (if isFlake then flakeDefault else top)) ]
else
  map (name: describe name (one name)) names
