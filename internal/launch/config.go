package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"
)

// configurable are the flags that may also be set by the environment
// (WRIT_<NAME>) and by a configuration file, where they keep their names.
// Secrets have no flag, so none can be set here.
var configurable = []string{"audience", "bank", "domain", "eventlog", "ima", "level", "operator", "oslog", "socket", "state", "tpm", "trust", "verifier"}

// DefaultConfig is read if it is there.
const DefaultConfig = "/etc/writ/writ.toml"

// Settle gives flags that were not set their value: flag > WRIT_* > file >
// default. An unknown key in the file is an error, so that a misspelt setting
// is not a setting silently ignored.
func Settle(flags *pflag.FlagSet, path string) error {
	file, err := readConfig(path)
	if err != nil {
		return err
	}
	for _, name := range configurable {
		f := flags.Lookup(name)
		if f == nil || f.Changed {
			continue
		}
		value, ok := os.LookupEnv("WRIT_" + strings.ToUpper(name))
		if !ok {
			value, ok = file[name]
		}
		if !ok {
			continue
		}
		if err := f.Value.Set(value); err != nil {
			return fmt.Errorf("setting %s to %q: %w", name, value, err)
		}
	}
	return nil
}

func readConfig(path string) (map[string]string, error) {
	required := path != ""
	if !required {
		path = DefaultConfig
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	values := map[string]string{}
	if err := toml.NewDecoder(bytes.NewReader(raw)).Decode(&values); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(configurable, key) {
			return nil, fmt.Errorf("reading %s: unknown key %q; known are %s", path, key, strings.Join(configurable, ", "))
		}
	}
	return values, nil
}
