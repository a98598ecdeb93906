// Command citysync runs a city: all of it in one process (dev), or one service
// alone (pds, appview, ledger). An institution checks and cosigns its log (witness). It also sets a city up (admin), acts in one from
// outside (demo) and checks one from outside (verify).
//
// Every flag has a twin in the environment, CITYSYNC_ and the flag's name in
// capitals; an unknown CITYSYNC_ variable refuses to start, because a setting that
// is misspelt must not be silently without effect.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v3"
)

func main() { os.Exit(untilSignalled()) }

// untilSignalled runs the program as the shell called it; a signal ends it in order.
func untilSignalled() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args, os.Environ(), streams{os.Stdout, os.Stderr})
}

// streams are where a command writes: answers to out, everything else to err.
type streams struct {
	out, err io.Writer
}

// exitCode is an error with the exit code that the command's contract gives it.
type exitCode struct {
	code int
	err  error
}

func (e *exitCode) Error() string { return e.err.Error() }
func (e *exitCode) Unwrap() error { return e.err }

// run is the whole program: it never exits and reads nothing that is not passed in,
// except the environment twins of flags, which package cli reads.
func run(ctx context.Context, args, environ []string, s streams) int {
	root := rootCommand(s)
	if err := unknownSettings(root, environ); err != nil {
		fmt.Fprintf(s.err, "citysync: %v\n", err)
		return 1
	}
	err := root.Run(ctx, args)
	if err == nil {
		return 0
	}
	var coded *exitCode
	if errors.As(err, &coded) {
		if coded.err != nil {
			fmt.Fprintf(s.err, "citysync: %v\n", coded.err)
		}
		return coded.code
	}
	fmt.Fprintf(s.err, "citysync: %v\n", err)
	return 1
}

func rootCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:            "citysync",
		Usage:           "a city that recognises volunteer work",
		Version:         version(),
		Writer:          s.out,
		ErrWriter:       s.err,
		ExitErrHandler:  func(context.Context, *cli.Command, error) {}, // run decides
		HideHelpCommand: true,
		Commands: []*cli.Command{
			devCommand(s),
			demoCommand(s),
			verifyCommand(s),
			adminCommand(s),
			pdsCommand(s),
			appviewCommand(s),
			ledgerCommand(s),
			witnessCommand(s),
			signerCommand(s),
		},
		Action: func(_ context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return fmt.Errorf("no command %q; see citysync --help", c.Args().First())
			}
			return cli.ShowRootCommandHelp(c)
		},
	}
}

// unknownSettings refuses CITYSYNC_ variables that no flag of any command reads.
func unknownSettings(root *cli.Command, environ []string) error {
	var known []string
	var walk func(*cli.Command)
	walk = func(c *cli.Command) {
		for _, f := range c.Flags {
			if named, ok := f.(interface{ GetEnvVars() []string }); ok {
				known = append(known, named.GetEnvVars()...)
			}
		}
		for _, sub := range c.Commands {
			walk(sub)
		}
	}
	walk(root)
	var unknown []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix) && !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return fmt.Errorf("UnknownSetting: %s: no flag has this name", strings.Join(unknown, ", "))
	}
	return nil
}
