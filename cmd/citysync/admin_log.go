package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// adminLogCommands are the city's part in who vouches for its log.
func adminLogCommands(act func(func(*admin, context.Context, *cli.Command) error) cli.ActionFunc) []*cli.Command {
	return []*cli.Command{
		{
			Name: "witnesses", Usage: "put the witnesses' quorum policy in the log, and their institutions in the city's record",
			Flags: []cli.Flag{
				stringFlag("policy", "", "`FILE` of the policy, as C2SP tlog-policy, with a group for each class of institutions"),
				stringFlag("institutions", "", "`NAME=DID` of each witness of the policy, by comma"),
				stringFlag("openings", "", "`NAMES` of those with an agreement to see what is sealed, by comma"),
			},
			Action: act((*admin).witnesses),
		},
		{
			Name: "log-key", Usage: "publish the log's new key in the city's record, once the log itself names it",
			Flags:  []cli.Flag{stringFlag("log-vkey", "", "`KEY` that verifies the log from now on")},
			Action: act((*admin).logKey),
		},
	}
}

func (a *admin) witnesses(ctx context.Context, c *cli.Command) error {
	text, err := readBounded(c.String("policy"), tlog.MaxPolicy)
	if err != nil {
		return fmt.Errorf("--policy: %w", err)
	}
	if _, err := tlog.ParsePolicy(text); err != nil {
		return err
	}
	agreed := list(c.String("openings"))
	var named []map[string]any
	var dids []string
	for _, pair := range list(c.String("institutions")) {
		name, did, ok := strings.Cut(pair, "=")
		if _, err := syntax.ParseDID(did); !ok || err != nil {
			return fmt.Errorf("--institutions: %q is not NAME=DID", pair)
		}
		w := map[string]any{"name": name, "did": did}
		if slices.Contains(agreed, name) {
			w["openings"] = true
		}
		named = append(named, w)
		if !slices.Contains(dids, did) {
			dids = append(dids, did)
		}
	}
	var out struct {
		Entries int    `json:"entries"`
		Policy  string `json:"policy"`
	}
	in := map[string]any{"policy": string(text), "witnesses": named}
	if err := a.ledger.procedure(ctx, a.ledger.as(a.city), lexicons.LedgerBindWitnesses, in, &out); err != nil {
		return err
	}
	fmt.Fprintf(a.s.out, "%d entries; the policy in force is %s\n", out.Entries, out.Policy)
	return a.editCity(ctx, func(city *citysync.ActorCity) bool {
		if slices.Equal(city.Witnesses, dids) {
			return false
		}
		city.Witnesses = dids
		return true
	})
}

func (a *admin) logKey(ctx context.Context, c *cli.Command) error {
	vkey := c.String("log-vkey")
	key, err := tlog.ParseKey(vkey)
	if err != nil || key.Cosigns() {
		return errors.New("--log-vkey: the log's verifier key, as signed notes write it, is needed")
	}
	return a.editCity(ctx, func(city *citysync.ActorCity) bool {
		if city.Log == nil || city.Log.Vkey == vkey {
			return false
		}
		city.Log.Vkey = vkey
		return true
	})
}

// editCity changes the city's record where there is something to change.
func (a *admin) editCity(ctx context.Context, edit func(*citysync.ActorCity) bool) error {
	rec, err := a.pds.get(ctx, a.city.DID, lexicons.ActorCity, "self")
	if err != nil {
		return err
	}
	if rec == nil {
		return errors.New("the city is not founded")
	}
	city := &citysync.ActorCity{}
	if err := json.Unmarshal(rec.Value, city); err != nil {
		return fmt.Errorf("%s: %w", rec.URI, err)
	}
	if !edit(city) {
		return nil
	}
	city.LexiconTypeID = lexicons.ActorCity
	ref, err := a.city.put(ctx, lexicons.ActorCity, "self", city)
	return a.wrote(ref, err)
}
