package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/simulate"
)

// simulateCommand tries a cap rule on months that have not been.
func simulateCommand(s streams) *cli.Command {
	d := city.DefaultParameters()
	number := func(name string, value int64, usage string) cli.Flag { return intFlag(name, int(value), usage) }
	return &cli.Command{
		Name:  "simulate",
		Usage: "try a cap before it is adopted: parameters in, months of stock and flow out",
		Description: "The caps are those that the ledger's own rules give; people redeem a share r of what is active in a month, as far as there is capacity, and a share\n" +
			"δ of it falls asleep. Nothing is read from a ledger and nothing is written to one. Credits are whole, ratios are in thousandths.",
		Flags: []cli.Flag{
			stringFlag("city", "", "`NAME` of an embedded city or a folder: its capacity and parameters are where the run begins"),
			number("capacity", 0, "C, credits a month (default: the city's)"),
			number("months", 24, "months to run"),
			stringFlag("phases", "launch,steady", "`PHASES` of the epochs in order, by comma; the last goes on"),
			number("epoch-months", 3, "months of an epoch"),
			number("issue-bps", 10_000, "share of each epoch's cap that is issued"),
			number("r-bps", 0, "share of the active stock redeemed in a month (default: the parameters' start value)"),
			number("delta-bps", -1, "share of it that falls asleep in a month (default: the parameters' start value)"),
			number("reactivate-bps", 0, "share of the dormant stock that wakes in a month"),
			number("cap-phase-bps", -1, "launch: share of C (default: the city's, "+fmt.Sprint(d.CapPhaseBps)+")"),
			number("cap-share-bps", -1, "steady: share of what can be issued for good (default: the city's, "+fmt.Sprint(d.CapShareBps)+")"),
			number("ascr-max-milli", -1, "steady: highest backlog (default: the city's, "+fmt.Sprint(d.ASCRMaxMilli)+")"),
			number("delta-cap-bps", -1, "most of δ that counts (default: the city's, "+fmt.Sprint(d.DeltaCapBps)+")"),
			number("dormancy-months", -1, "months asleep after which credits expire, 0 for never (default: the city's)"),
			stringFlag("csv", "-", "`FILE` for the months, - for standard output"),
			stringFlag("svg", "", "`FILE` for a chart"),
		},
		Action: func(_ context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			title, plan, err := planOf(c)
			if err != nil {
				return err
			}
			return runSimulation(c, s, title, plan)
		},
	}
}

// planOf takes the city's parameters, and over them what the flags say.
func planOf(c *cli.Command) (title string, plan simulate.Plan, err error) {
	p := city.DefaultParameters()
	title = "A cap tried"
	if name := c.String("city"); name != "" {
		folder, err := city.Folder(name)
		if err != nil {
			return "", plan, err
		}
		from, err := city.Load(folder)
		if err != nil {
			return "", plan, err
		}
		p, title = from.Params, "A cap tried: "+from.Name
		for _, o := range from.Offerings {
			if city.RefuseOffering(o) == nil {
				plan.Capacity += o.CapacityMonth()
			}
		}
	}
	plan.Policy = entry.CapPolicy{
		CapPhaseBps: p.CapPhaseBps, CapShareBps: p.CapShareBps, AscrMaxMilli: p.ASCRMaxMilli, DeltaCapBps: p.DeltaCapBps,
		RStartBps: p.RStartBps, DeltaStartBps: p.DeltaStartBps,
	}
	plan.DormancyMonths, plan.WarmUpMonths = p.DormancyMonths, p.WarmUpMonths
	plan.RBps, plan.DeltaBps = p.RStartBps, p.DeltaStartBps
	plan.Phases = list(c.String("phases"))
	for flag, field := range map[string]*int64{
		"capacity": &plan.Capacity, "months": &plan.Months, "epoch-months": &plan.EpochMonths, "issue-bps": &plan.IssueBps, "r-bps": &plan.RBps,
		"delta-bps": &plan.DeltaBps, "reactivate-bps": &plan.ReactivateBps, "cap-phase-bps": &plan.Policy.CapPhaseBps,
		"cap-share-bps": &plan.Policy.CapShareBps, "ascr-max-milli": &plan.Policy.AscrMaxMilli, "delta-cap-bps": &plan.Policy.DeltaCapBps,
		"dormancy-months": &plan.DormancyMonths,
	} {
		if c.IsSet(flag) || *field == 0 && c.Int(flag) > 0 {
			*field = int64(c.Int(flag))
		}
	}
	if plan.Capacity == 0 && !c.IsSet("capacity") {
		return "", plan, errors.New("--capacity or --city is needed")
	}
	return title, plan, plan.Check()
}

func runSimulation(c *cli.Command, s streams, title string, plan simulate.Plan) error {
	months, err := simulate.Run(plan)
	if err != nil {
		return err
	}
	if err := writeTo(c.String("csv"), s.out, func(w io.Writer) error { return simulate.WriteCSV(w, months) }); err != nil {
		return err
	}
	if c.String("svg") == "" {
		return nil
	}
	return writeTo(c.String("svg"), s.out, func(w io.Writer) error { return simulate.WriteSVG(w, title, months) })
}

// writeTo writes a file, or standard output for -.
func writeTo(path string, out io.Writer, write func(io.Writer) error) error {
	if path == "-" {
		return write(out)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		_ = f.Close() // the first error counts
		return err
	}
	return f.Close()
}
