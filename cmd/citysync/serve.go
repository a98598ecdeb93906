package main

import "github.com/urfave/cli/v3"

func pdsCommand(streams) *cli.Command     { return &cli.Command{Name: "pds"} }
func appviewCommand(streams) *cli.Command { return &cli.Command{Name: "appview"} }
func ledgerCommand(streams) *cli.Command  { return &cli.Command{Name: "ledger"} }
func adminCommand(streams) *cli.Command   { return &cli.Command{Name: "admin"} }
