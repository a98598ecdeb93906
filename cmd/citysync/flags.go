package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v3"
)

const envPrefix = "CITYSYNC_"

// env is the environment twin of a flag.
func env(flag string) cli.ValueSourceChain {
	return cli.EnvVars(envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_")))
}

func stringFlag(name, value, usage string) *cli.StringFlag {
	return &cli.StringFlag{Name: name, Value: value, Usage: usage, Sources: env(name), OnlyOnce: true}
}

// stringsFlag can be given more than once.
func stringsFlag(name, usage string) *cli.StringSliceFlag {
	return &cli.StringSliceFlag{Name: name, Usage: usage, Sources: env(name)}
}

func intFlag(name string, value int, usage string) *cli.IntFlag {
	return &cli.IntFlag{Name: name, Value: value, Usage: usage, Sources: env(name), OnlyOnce: true}
}

func durationFlag(name, usage string) *cli.DurationFlag {
	return &cli.DurationFlag{Name: name, Usage: usage, Sources: env(name), OnlyOnce: true}
}

func boolFlag(name, usage string) *cli.BoolFlag {
	return &cli.BoolFlag{Name: name, Usage: usage, Sources: env(name)}
}

func noArguments(c *cli.Command) error {
	if c.Args().Present() {
		return fmt.Errorf("%s takes no argument, got %q", c.Name, c.Args().First())
	}
	return nil
}

// httpURL checks an address given by a flag and takes its final slash away.
func httpURL(flag, value string) (string, error) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("--%s %q is not an http or https address", flag, value)
	}
	return strings.TrimRight(value, "/"), nil
}

// defaultData is the data folder where none is given. A private PostgreSQL started
// by root runs as another user, who cannot enter root's home.
func defaultData() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/citysync", nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "citysync"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home folder for the data: %w; give --data", err)
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support", "citysync"), nil
	}
	return filepath.Join(home, ".local", "share", "citysync"), nil
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
