package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/ledger/audit"
)

// verifyConfig says what to verify.
type verifyConfig struct {
	Target string // a web or ledger address, or a record's at-uri
	PLCURL string // empty: what a loopback city says, else the public directory

	Checkpoints       []string // files or addresses of signed checkpoints
	Openings          string   // file of a resident's
	ValidatorOpenings string   // file of everybody's
}

// A verifier checks one city from outside, with nothing but requests that anybody may make. It believes what somebody signed
// and what it computed itself.
type verifier struct {
	web      *web
	authors  *authors
	report   *verifyReport
	patience int // how often receipts that are not there yet are looked for again
	clock    clock.Clock

	own    *given   // a resident's
	all    *given   // everybody's
	views  [][]byte // signed checkpoints from elsewhere
	newest []byte   // the signed checkpoint that the log is read by
	city   *verifiedCity
	keys   []logKey
	audit  *audit.Auditor
	cited  *citedRecords
	upTo   string // said where a bad entry ended the replay
}

// verifyCity does all of it. An error wraps errCouldNot; the report holds what was found before it.
func verifyCity(ctx context.Context, cfg verifyConfig) (*verifyReport, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	v := &verifier{report: newVerifyReport(), patience: 5}
	if err := v.run(ctx, cfg); err != nil {
		return v.report, err
	}
	return v.report, nil
}

func (v *verifier) run(ctx context.Context, cfg verifyConfig) error {
	plc := strings.TrimRight(cfg.PLCURL, "/")
	if plc != "" {
		if _, err := baseURL(plc); err != nil {
			return couldNot("--plc-url: %w", err)
		}
	}
	if strings.HasPrefix(cfg.Target, "at://") {
		u, err := recordAddress(cfg.Target)
		if err != nil {
			return couldNot("%w", err)
		}
		if plc == "" {
			plc = publicPLC
		}
		v.begin(onLoopback(plc), plc)
		said, city, err := v.fromRecord(ctx, u)
		if err != nil {
			return err
		}
		if err := v.files(ctx, cfg); err != nil {
			return err
		}
		return v.checkCity(ctx, said, city, u)
	}
	address, err := baseURL(cfg.Target)
	if err != nil {
		return couldNot("%w", err)
	}
	local := onLoopback(address)
	v.begin(local, publicPLC)
	said, city, err := v.fromAddress(ctx, address)
	if err != nil {
		return err
	}
	switch {
	case plc != "":
	case local && onLoopback(said.PLC):
		plc = strings.TrimRight(said.PLC, "/")
	default:
		plc = publicPLC
	}
	v.authors = newAuthors(v.web, plc)
	if err := v.files(ctx, cfg); err != nil {
		return err
	}
	return v.checkCity(ctx, said, city, "")
}

// files reads what was given beside the address.
func (v *verifier) files(ctx context.Context, cfg verifyConfig) (err error) {
	if cfg.Openings != "" {
		if v.own, err = readOpenings(cfg.Openings); err != nil {
			return couldNot("--openings: %w", err)
		}
	}
	if cfg.ValidatorOpenings != "" {
		if v.all, err = readOpenings(cfg.ValidatorOpenings); err != nil {
			return couldNot("--validator-openings: %w", err)
		}
	}
	for _, name := range cfg.Checkpoints {
		raw, err := v.seen(ctx, name)
		if err != nil {
			return couldNot("--checkpoint: %w", err)
		}
		v.views = append(v.views, raw)
	}
	return nil
}

func (v *verifier) begin(loopback bool, plc string) {
	if v.web == nil {
		v.web = newWeb(loopback)
	}
	if v.clock == nil {
		v.clock = clock.System()
	}
	v.authors = newAuthors(v.web, plc)
}

// checkCity makes every check, in order; record adds the chain of one record.
func (v *verifier) checkCity(ctx context.Context, said *wellKnown, city syntax.DID, record syntax.ATURI) error {
	if ok, err := v.confirm(ctx, said, city); err != nil || !ok {
		return err
	}
	published, err := v.readPublished(ctx)
	if err != nil {
		return err
	}
	c, err := v.checkpoint(ctx)
	if err != nil || c == nil {
		return err
	}
	log, err := v.readLog(ctx, *c)
	if err != nil {
		return err
	}
	v.followKeys(published, log)
	v.checkPublished(published, log)
	v.checkViews(log)
	if err := v.cosignatures(ctx, log); err != nil {
		return err
	}
	if err := v.citedRecords(ctx, log); err != nil {
		return err
	}
	v.totals(log, published)
	v.opened(log)
	if err := v.checkReceipts(ctx, published, log); err != nil {
		return err
	}
	if record == "" {
		return nil
	}
	if err := v.chain(ctx, record, published, log); err != nil {
		return fmt.Errorf("chain of %s: %w", record, err)
	}
	return nil
}
