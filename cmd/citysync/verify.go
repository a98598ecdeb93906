package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v3"
)

// Exit codes of verify.
const (
	exitWrong    = 1
	exitCouldNot = 2
)

func verifyCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "check a city from outside: its log, its limits and every record that it rests on",
		ArgsUsage: "URL|at-uri|FILE.tlog-proof",
		Description: "URL is a city's web or ledger address. An at-uri is a record's: its city is found and checked, and the record's own chain with it.\n" +
			"A file is the proof of a receipt: it is checked without a network, under the log's key and the witnesses' policy that are given.\n" +
			"Exit code 0: all is right; 1: something is wrong and named; 2: it could not be checked.",
		Flags: []cli.Flag{
			stringFlag("plc-url", "", "did:plc directory; by default the city's own on loopback, otherwise "+publicPLC),
			stringsFlag("checkpoint", "a signed checkpoint seen elsewhere, as a file or at an address; the log must agree with it"),
			stringFlag("openings", "", "file of a resident's own openings, as the ledger gave them"),
			stringFlag("validator-openings", "", "file of all openings, as a validator has them: the whole log is re-executed"),
			boolFlag("json", "print the result as one JSON object"),
			stringFlag("vkey", "", "of a proof: the log's key, as the city's record names it"),
			stringFlag("policy", "", "of a proof file: the witnesses' policy, a file; their quorum must have signed"),
			stringFlag("proof", "", "`FILE` that a witness keeps of a log that broke its word: checked offline, instead of a city"),
			stringFlag("copy", "", "of a witness's proof that does not carry the entries before: `FOLDER` of any copy of the log"),
		},
		OnUsageError: func(_ context.Context, _ *cli.Command, err error, _ bool) error { return &exitCode{exitCouldNot, err} },
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.String("proof") != "" {
				if c.Args().Present() {
					return &exitCode{exitCouldNot, errors.New("--proof is checked alone")}
				}
				return verifyDispute(ctx, s, c.String("proof"), c.String("copy"), list(c.String("vkey")), c.Bool("json"))
			}
			if c.Args().Len() != 1 {
				return &exitCode{exitCouldNot, errors.New("verify takes one address, at-uri or proof file")}
			}
			if target := c.Args().First(); strings.HasSuffix(target, proofSuffix) && !strings.Contains(target, "://") {
				return runVerifyProof(s, verifyProofConfig{File: target, VKey: c.String("vkey"), Policy: c.String("policy")}, c.Bool("json"))
			}
			return runVerify(ctx, s, verifyConfig{
				Target: c.Args().First(), PLCURL: c.String("plc-url"), Checkpoints: c.StringSlice("checkpoint"), Openings: c.String("openings"),
				ValidatorOpenings: c.String("validator-openings"),
			}, c.Bool("json"))
		},
	}
}

func runVerify(ctx context.Context, s streams, cfg verifyConfig, asJSON bool) error {
	report, failure := verifyCity(ctx, cfg)
	result := report.result()
	result.OK = result.OK && failure == nil
	var err error
	switch {
	case asJSON:
		err = result.writeJSON(s.out)
	case failure == nil || len(result.Wrong) > 0:
		err = result.writeText(s.out)
	}
	if err != nil {
		return &exitCode{exitCouldNot, fmt.Errorf("write the result: %w", err)}
	}
	switch {
	case len(result.Wrong) > 0:
		return &exitCode{exitWrong, failure}
	case failure != nil:
		return &exitCode{exitCouldNot, failure}
	}
	return nil
}
