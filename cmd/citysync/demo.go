package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/city"
)

const (
	minResidents     = 8
	defaultResidents = 40
	maxResidents     = 10_000

	cityAway   = 120 * time.Second // how long the demonstration waits for a city that is away
	decideTime = 90 * time.Second  // how long the ledger may take to decide on a record
	decidePoll = 50 * time.Millisecond
	workers    = 4 // acts under way at once
)

func demoCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "act in a running city from outside: work, earn, redeem, and try what must be refused",
		Flags: []cli.Flag{
			stringFlag("ready-file", "", "`FILE` that dev wrote"),
			intFlag("residents", defaultResidents, "how many residents take part, at least 8"),
			intFlag("seed", 1, "what the residents do follows from it"),
			boolFlag("json", "print one JSON object and nothing else to standard output"),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			n := c.Int("residents")
			if n < minResidents || n > maxResidents {
				return fmt.Errorf("--residents %d: %d to %d", n, minResidents, maxResidents)
			}
			if c.String("ready-file") == "" {
				return errors.New("--ready-file is needed")
			}
			ready, err := awaitReadyFile(ctx, c.String("ready-file"))
			if err != nil {
				return err
			}
			d := newDemo(ready, n, int64(c.Int("seed")), newProgress(s.err))
			out, err := d.run(ctx)
			d.progress.end()
			if out != nil {
				if printErr := out.print(s.out, c.Bool("json")); err == nil {
					err = printErr
				}
			}
			return err
		},
	}
}

// awaitReadyFile reads the ready file; while the city is starting there is none.
func awaitReadyFile(ctx context.Context, path string) (*readyInfo, error) {
	for since := time.Now(); ; {
		ready, err := readReady(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || time.Since(since) > cityAway {
			return ready, err
		}
		if pause(ctx, awayPause) != nil {
			return nil, err
		}
	}
}

// demo acts in a city through its public interfaces only. It keeps nothing: what was
// done before it learns from the network, and everything it makes up, passwords and
// the tills' keys too, follows from the seed and the admin's password.
type demo struct {
	ready    *readyInfo
	count    int
	seed     int64
	progress *progress
	rng      *rand.Rand

	pds    *pdsClient
	ledger *ledgerClient
	web    *endpoint
	city   syntax.DID
	orgs   map[syntax.DID]*organization
	loc    *time.Location

	rows      []*row
	residents []*resident
	outsider  *resident // an account that is neither accredited nor activated
	offerings []*openOffering
	tries     []try
	shows     []shown
	guests    []syntax.DID
	vkey      string // of the log, as the city publishes it
}

// organization is an account of the ready file, by its id there.
type organization struct {
	*session
	ID string
}

func newDemo(ready *readyInfo, count int, seed int64, p *progress) *demo {
	hc := httpClient()
	at := func(base string) endpoint { return endpoint{base: base, http: hc, patience: cityAway} }
	web := at(ready.Web)
	d := &demo{
		ready: ready, count: count, seed: seed, progress: p,
		rng: rand.New(rand.NewPCG(uint64(seed), 0x63697479)), //nolint:gosec // what a run does must follow from its seed
		pds: newNetworkClient(at(ready.PDS), ready.PLC), ledger: &ledgerClient{endpoint: at(ready.Ledger), did: syntax.DID(ready.LedgerDID)}, web: &web,
		city: syntax.DID(ready.City.DID), orgs: map[syntax.DID]*organization{}, loc: time.UTC,
	}
	for _, a := range ready.Accounts {
		did := syntax.DID(a.DID)
		d.orgs[did] = &organization{d.pds.session(did, a.Handle, a.Password), a.ID}
	}
	return d
}

// run does the demonstration, all of it or what is missing of it.
func (d *demo) run(ctx context.Context) (*report, error) {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"looking at the city", d.look},
		{"reading the log's key", d.readKey},
		{"looking for guests", d.findGuests},
		{"publishing tasks", d.publishTasks},
		{"trying what organizations may not do", d.tryAsOrganizations},
		{"welcoming residents", d.welcome},
		{"claiming", d.claimAll},
		{"trying what residents may not do", d.tryAsResidents},
		{"trying a lower pay", d.tryLowerPay},
		{"proving", d.proveAll},
		{"verifying", d.verifyAll},
		{"claiming what is sealed", d.claimSealed},
		{"verifying what is sealed", d.verifyAll},
		{"trying a second verification", d.trySecondMint},
		{"redeeming", d.redeemAll},
		{"trying codes again", d.tryCodes},
		{"meeting a counter on bad days", d.showCounter},
		{"objecting and disputing", d.showRights},
		{"asking to be forgotten", d.showForgotten},
		{"publishing redemptions", d.publishRedemptions},
		{"reviewing", d.reviewAll},
		{"checking what can be proved", d.showProofs},
	} {
		d.progress.step(step.name)
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	d.progress.step("reading the figures")
	out, err := d.report(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the figures: %w", err)
	}
	return out, d.missingRefusals()
}

// derive makes a secret of this demonstration: nobody without the admin's password
// can tell which accounts belong to one run, or sign in to them.
func (d *demo) derive(what string, parts ...string) []byte {
	mac := hmac.New(sha256.New, []byte(d.ready.AdminPassword))
	mac.Write([]byte("citysync demo\n" + what + "\n" + strings.Join(parts, "\n")))
	return mac.Sum(nil)
}

func (d *demo) deriveForSeed(what string, parts ...string) []byte {
	return d.derive(what, append([]string{strconv.FormatInt(d.seed, 10)}, parts...)...)
}

var handleEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func (d *demo) randomHandle(name string) string {
	return "r" + handleEncoding.EncodeToString(d.deriveForSeed("handle", name))[:13] + handleDomain
}

func (d *demo) password(name string) string {
	return hex.EncodeToString(d.deriveForSeed("password", name)[:16])
}

func (d *demo) idempotencyKey(parts ...string) string {
	return hex.EncodeToString(d.derive("idempotency", parts...)[:16])
}

// key is the record key of the n-th record of a kind that an organization writes
// whatever the seed: the same in every run, so that a second run finds it.
func (d *demo) key(n int) string { return city.Key(d.ready.Epoch.StartsAt, n) }

// Places in the run of those keys.
const (
	keyTask         = 100_000 // one a catalog row
	keyTryTooBig    = 200_000
	keyTryStranger  = 200_001
	keyTryDraft     = 200_002
	keyTryUnlisted  = 200_003
	keyTryLowerPay  = 200_004
	keyTrySecond    = 200_005
	keyTryPriceless = 200_006

	keyGuests = 300_000 // what guests' steps write
)

// decided waits until the ledger has decided on a record.
func (d *demo) decided(ctx context.Context, ref *city.Ref) (*explanation, error) {
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	for {
		e, err := d.ledger.explain(ctx, ref)
		if err != nil {
			return nil, err
		}
		if e != nil && e.Status != "waiting" {
			return e, nil
		}
		if pause(ctx, decidePoll) != nil {
			if e == nil {
				return nil, fmt.Errorf("the ledger has not seen %s", ref.Uri)
			}
			return nil, fmt.Errorf("the ledger leaves %s waiting for %s", ref.Uri, strings.Join(e.WaitingFor, ", "))
		}
	}
}

// must waits until the ledger has accepted a record, in whatever word it says so.
func (d *demo) must(ctx context.Context, ref *city.Ref) (*explanation, error) {
	e, err := d.decided(ctx, ref)
	if err != nil {
		return nil, err
	}
	if e.Status == "refused" {
		return nil, fmt.Errorf("the ledger refuses %s: %s %s", ref.Uri, e.Error, e.Message)
	}
	return e, nil
}
