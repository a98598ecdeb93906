package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// plcStart is when every account of a small city begins; they write from repotest.Start on.
var plcStart = repotest.Start.Add(-time.Hour)

type anyMap = map[string]any

// smallCity is a whole city of one task and one ride, in the real protocols over real HTTP: a did:plc directory, a host of
// repositories, and a ledger's log. What it serves can be spoiled.
type smallCity struct {
	t     *testing.T
	clock *clock.Manual
	plc   *httptest.Server
	pds   *httptest.Server
	log   *httptest.Server

	rotation *atcrypto.PrivateKeyK256
	accounts map[syntax.DID]*repotest.Author
	city     *repotest.Author
	ledger   *repotest.Author
	library  *repotest.Author
	bus      *repotest.Author
	skey     string
	skeys    []string // those that sign now, where they are others
	vkey     string
	tids     int

	world    *rulestest.World
	token    []byte
	ride     rules.Offering
	shelving string            // first uri of the task
	leaves   [][]byte          // what the log committed to
	evidence map[string][]byte // by cid

	// What an evil ledger serves instead, each by its path; nil answers 500.
	instead map[string]func([]byte) []byte
	// What an evil ledger writes instead of a receipt.
	receipt func(seq int64, r anyMap) anyMap
	// The size at which a checkpoint is published before the last one, and what an evil ledger writes instead of either.
	early      int64
	checkpoint func(size int64, r anyMap) anyMap
}

// newSmallCity builds a city that is right in every part, up to what it publishes: publish does that.
func newSmallCity(t *testing.T) *smallCity {
	t.Helper()
	c := &smallCity{
		t: t, clock: clock.New(plcStart), accounts: map[syntax.DID]*repotest.Author{}, evidence: map[string][]byte{},
		instead: map[string]func([]byte) []byte{},
	}
	directory, err := plcdev.New(filepath.Join(t.TempDir(), "plc.jsonl"), c.clock)
	require.NoError(t, err)
	c.plc = httptest.NewServer(directory.Handler())
	c.pds = httptest.NewServer(http.HandlerFunc(c.servePDS))
	c.log = httptest.NewServer(http.HandlerFunc(c.serveLog))
	t.Cleanup(func() { c.log.Close(); c.pds.Close(); c.plc.Close(); require.NoError(t, directory.Close()) })
	c.rotation, err = atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)

	c.city, c.library, c.bus = c.account("city", ""), c.account("library", ""), c.account("bus", "")
	c.ledger = c.account("ledger", c.log.URL)
	c.skey, c.vkey, err = tlog.GenerateKey(zeros{}, c.ledger.DID.String())
	require.NoError(t, err)
	c.found()
	c.leaves = c.world.Leaves
	c.early = c.seqOf(entry.KindClaim)
	return c
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// account registers an account with a key of its own.
func (c *smallCity) account(handle, ledgerURL string) *repotest.Author {
	c.t.Helper()
	a := repotest.NewAuthor(c.t, "x")
	op := identity.Operation{
		RotationKeys:        []string{publicKey(c.t, c.rotation).DIDKey()},
		VerificationMethods: map[string]string{"atproto": a.Public().DIDKey()},
		AlsoKnownAs:         []string{"at://" + handle + ".test"},
		Services:            map[string]identity.Service{"atproto_pds": {Type: "AtprotoPersonalDataServer", Endpoint: c.pds.URL}},
	}
	if ledgerURL != "" {
		op.Services["citysync_ledger"] = identity.Service{Type: "CitySyncLedger", Endpoint: ledgerURL}
	}
	require.NoError(c.t, op.Sign(c.rotation))
	did, err := identity.GenesisDID(op)
	require.NoError(c.t, err)
	require.NoError(c.t, c.directory().Submit(c.t.Context(), did, op))
	a.DID = did
	c.accounts[did] = a
	return a
}

func (c *smallCity) directory() *identity.PLC { return identity.NewPLC(c.plc.URL, newWeb(true).small) }

func publicKey(t *testing.T, k atcrypto.PrivateKey) atcrypto.PublicKey {
	t.Helper()
	p, err := k.PublicKey()
	require.NoError(t, err)
	return p
}

// change submits a new state of an account's DID, an hour after it began to write.
func (c *smallCity) change(a *repotest.Author, to func(*identity.Operation)) {
	c.t.Helper()
	c.clock.Set(repotest.Start.Add(time.Hour))
	last, err := c.directory().Last(c.t.Context(), a.DID)
	require.NoError(c.t, err)
	op := last.Next()
	to(&op)
	require.NoError(c.t, op.Sign(c.rotation))
	require.NoError(c.t, c.directory().Submit(c.t.Context(), a.DID, op))
}

// rotate gives an account another key.
func (c *smallCity) rotate(a *repotest.Author, next *atcrypto.PrivateKeyK256) {
	c.t.Helper()
	c.change(a, func(op *identity.Operation) { op.VerificationMethods["atproto"] = publicKey(c.t, next).DIDKey() })
	a.Key = next
}

// commit writes with a rev of a stated time.
func (c *smallCity) commit(a *repotest.Author, at time.Time, writes ...repo.Write) {
	c.t.Helper()
	done, err := repo.Apply(c.t.Context(), a.Blocks, a.DID, a.Head, writes, a.Key, string(syntax.NewTIDFromTime(at, 0)))
	require.NoError(c.t, err)
	a.Take(done)
}

func (c *smallCity) tid() string {
	c.tids++
	return string(syntax.NewTIDFromTime(repotest.Start.Add(time.Duration(c.tids)*time.Minute), 0))
}

// put writes a record, which must be valid, and gives it as an entry cites it.
func (c *smallCity) put(a *repotest.Author, nsid, rkey string, record anyMap) entry.Cause {
	c.t.Helper()
	record["$type"] = nsid
	data := encode(c.t, record)
	require.NoError(c.t, lexicons.Validate(nsid, rkey, data), nsid)
	done := a.Commit(repo.Write{Action: repo.Create, Collection: nsid, RKey: rkey, Record: data})
	id := repo.CIDForCBOR(data).String()
	car, err := repo.Proof(c.t.Context(), a.Blocks, done.Head, nsid+"/"+rkey)
	require.NoError(c.t, err)
	c.evidence[id] = car
	return entry.Cause{URI: "at://" + a.DID.String() + "/" + nsid + "/" + rkey, CID: id, Rev: done.Head.Rev, Key: a.Public().DIDKey()}
}

func encode(t *testing.T, record anyMap) []byte {
	t.Helper()
	raw, err := json.Marshal(record)
	require.NoError(t, err)
	data, err := lexicons.EncodeJSONToCBOR(raw)
	require.NoError(t, err)
	return data
}

func refOf(c entry.Cause) anyMap { return anyMap{"uri": c.URI, "cid": c.CID} }

func bytesOf(b []byte) anyMap { return anyMap{"$bytes": base64.RawStdEncoding.EncodeToString(b)} }

// found writes what a city begins with, and opens its log with it.
func (c *smallCity) found() {
	c.t.Helper()
	w := rulestest.New(c.t)
	c.world = w
	c.put(c.city, lexicons.ActorCity, "self", anyMap{
		"name": "Small", "jurisdiction": "Town of Small", "tz": "America/Los_Angeles", "langs": []string{"en"}, "ledger": c.ledger.DID,
		"log":   anyMap{"origin": c.ledger.DID, "vkey": c.vkey, "url": c.log.URL},
		"books": []anyMap{{"id": rulestest.Book, "symbol": "$SMALL", "kind": "standard"}},
	})
	decision := c.put(c.city, lexicons.GovDecision, "founding", anyMap{
		"result": "adopted", "rationale": "We begin.", "effectiveEpoch": rulestest.Epoch, "instrument": anyMap{"uri": "https://city.example/r", "title": "R"},
	})
	p := w.Parameters(entry.PhaseLaunch)
	w.Must(rules.SetParameters{Now: w.Now, Parameters: p, Record: c.put(c.city, lexicons.GovParameterSet, c.tid(), parametersOf(p, decision))})
	c.accredit(c.library, "issuer", decision)
	c.accredit(c.bus, "redeemer", decision)

	rideRecord := c.put(c.bus, lexicons.OfferOffering, c.tid(), anyMap{
		"title": "Ride", "creditsPerUnit": 4, "unitLabel": "ride", "epoch": rulestest.Epoch, "book": rulestest.Book,
		"capacity":         anyMap{"physicalMonth": 1000, "marginalMonth": 500, "committedMonth": 200},
		"publicPriceMinor": 250, "currency": "USD",
	})
	ride := w.Offer(c.bus.DID, "x", 1000, 500, 200, 4)
	ride.Record = rideRecord
	c.ride = ride
	w.Must(rules.OpenEpoch{Now: w.Now, Epoch: rulestest.Epoch, Book: rulestest.Book, Offerings: []rules.Offering{ride}})
	for name, org := range map[string]*repotest.Author{"Library": c.library, "Bus": c.bus} {
		c.put(org, lexicons.ActorOrganization, "self", anyMap{"name": name, "cities": []any{c.city.DID}, "createdAt": "2027-01-02T09:00:00Z"})
	}
	w.Now = w.At("2027-01-04 09:00")
	w.Must(rules.BindTill{Now: w.Now, Org: c.bus.DID, Key: rulestest.TillKey})
	w.Must(rules.Activate{Now: w.Now, Issuer: c.library.DID, Resident: rulestest.Resident(1), Account: rulestest.Account(1)})

	ruleSet := c.put(c.city, lexicons.CatalogRuleSet, c.tid(), anyMap{"title": "Rules", "rules": []anyMap{{"id": "r1", "text": "No displacement."}}})
	draft := anyMap{
		"title": "Shelving", "summary": "Put books back.", "successCriteria": []anyMap{{"id": "c1", "text": "Done"}}, "tier": 1, "creditsPerHour": 8,
		"minMinutes": 120, "maxMinutes": 120, "sensitivity": "pseudonymous", "verificationLevel": 1, "ruleSet": refOf(ruleSet),
	}
	origin := c.put(c.library, lexicons.CatalogEntry, c.tid(), draft)
	draft["origin"], draft["decision"] = refOf(origin), refOf(decision)
	c.task(c.put(c.city, lexicons.CatalogEntry, c.tid(), draft))
	w.Must(rules.Burn{Now: w.Now, Account: rulestest.Account(1), Offering: ride, Units: 2, Till: entry.TillID(c.bus.DID.String(), rulestest.TillKey)})
}

func (c *smallCity) accredit(org *repotest.Author, role string, decision entry.Cause) {
	c.t.Helper()
	bind := c.world.Role(org.DID, role)
	bind.Categories = []string{rules.CategoryActivation}
	bind.Record = c.put(c.city, lexicons.RegistryAccreditation, org.DID.String(), anyMap{
		"org": org.DID, "roles": []string{"org.city-sync.defs#role" + strings.ToUpper(role[:1]) + role[1:]}, "status": "active",
		"categories": bind.Categories, "validFrom": entry.FormatTime(bind.ValidFrom), "validUntil": entry.FormatTime(bind.ValidUntil),
		"decision": refOf(decision),
	})
	c.world.Must(bind)
}

// task publishes one task of 16 credits, has it claimed and verified, and mints.
func (c *smallCity) task(catalog entry.Cause) {
	c.t.Helper()
	w := c.world
	starts, ends := w.At("2027-01-04 10:00"), w.At("2027-01-04 12:00")
	task := c.put(c.library, lexicons.WorkTask, c.tid(), anyMap{
		"title": "Shelving today", "epoch": rulestest.Epoch, "book": rulestest.Book, "creditsPerCompletion": 16, "entry": refOf(catalog),
		"shifts": []anyMap{{"id": "a", "startsAt": entry.FormatTime(starts), "endsAt": entry.FormatTime(ends), "slots": 2}},
	})
	c.shelving = task.URI
	w.Must(rules.AcceptTask{
		Now: w.Now, Task: task, First: task.URI, Author: c.library.DID, Epoch: rulestest.Epoch, Book: rulestest.Book, Credits: 16,
		Shifts: []rules.Shift{{ID: "a", StartsAt: starts, EndsAt: ends, Slots: 2}},
		Entry: rules.CatalogEntry{
			Ref: catalog.Ref(), Active: true, Tier: 1, MinMinutes: 120, MaxMinutes: 120, Level: 1, Sensitivity: entry.SensitivityPseudonymous,
		},
	})
	held, err := rules.DecideClaim(w.State, rules.ClaimRequest{
		Now: w.Now, Resident: rulestest.Resident(1), Task: task.Ref(), Shift: "a", EntryActive: true, EpochKey: rulestest.EpochKey,
	})
	require.NoError(c.t, err)
	require.NoError(c.t, rules.HoldClaim(w.State, held))
	c.token = held.Token
	w.Now = starts
	verification := c.put(c.library, lexicons.WorkVerification, c.tid(), c.verification(task))
	w.Must(rules.Mint{
		Now: w.Now, Record: verification, Author: c.library.DID, Signed: true, Task: task.Ref(), Shift: "a", Token: held.Token,
		Outcome: entry.OutcomeApproved, Credits: 16, Level: 1, Methods: []string{"org.city-sync.defs#methodAttestation"},
	})
}

func (c *smallCity) verification(task entry.Cause) anyMap {
	return anyMap{
		"$type": lexicons.WorkVerification, "task": refOf(task), "shiftId": "a", "outcome": "approved", "credits": 16, "level": 1,
		"methods": []string{"org.city-sync.defs#methodAttestation"}, "createdAt": "2027-01-04T18:00:00Z",
		"subject": anyMap{"$type": lexicons.WorkVerification + "#blindClaim", "blindedSubject": anyMap{"alg": "hmac-sha256-context-v1", "value": bytesOf(c.token)}},
	}
}

func parametersOf(p entry.Parameters, decision entry.Cause) anyMap {
	var epochs, tiers []anyMap
	for _, e := range p.Epochs {
		var months []anyMap
		for _, m := range e.Months {
			months = append(months, anyMap{"startsAt": m.StartsAt, "endsAt": m.EndsAt})
		}
		epochs = append(epochs, anyMap{"key": e.Key, "startsAt": e.StartsAt, "endsAt": e.EndsAt, "tz": e.TZ, "phase": e.Phase, "months": months})
	}
	for _, t := range p.Tiers {
		tiers = append(tiers, anyMap{"n": t.N, "creditsPerHour": t.CreditsPerHour, "bandBps": t.BandBps})
	}
	c := p.CapPolicy
	return anyMap{
		"effectiveEpoch": p.EffectiveEpoch, "epochs": epochs, "tiers": tiers, "issuerSplit": anyMap{"kind": "equal"},
		"capPolicy": anyMap{
			"$type": lexicons.GovParameterSet + "#capFormula", "capPhaseBps": c.CapPhaseBps, "capShareBps": c.CapShareBps,
			"ascrMaxMilli": c.AscrMaxMilli, "deltaCapBps": c.DeltaCapBps, "rStartBps": c.RStartBps, "deltaStartBps": c.DeltaStartBps,
		},
		"dormancyMonths": p.DormancyMonths, "warmUpMonths": p.WarmUpMonths, "claimLimit": p.ClaimLimit, "claimLapseDays": p.ClaimLapseDays,
		"votesPerCredit": p.VotesPerCredit, "kMin": p.KMin, "decision": refOf(decision),
	}
}

// seqOf is the first entry of a kind.
func (c *smallCity) seqOf(kind entry.Kind) int64 {
	c.t.Helper()
	for i, leaf := range c.leaves {
		e, err := entry.Decode(leaf)
		require.NoError(c.t, err)
		if e.Kind == kind {
			return int64(i)
		}
	}
	require.Fail(c.t, "no entry", string(kind))
	return 0
}

// edit changes what the log committed to: an evil ledger's entry in its right place, signed and published like any other.
func (c *smallCity) edit(kind entry.Kind, change func(*entry.Entry)) int64 {
	c.t.Helper()
	seq := c.seqOf(kind)
	e, err := entry.Decode(c.leaves[seq])
	require.NoError(c.t, err)
	change(e)
	c.leaves[seq], err = e.Encode()
	require.NoError(c.t, err)
	return seq
}

func (c *smallCity) tree(size int64) *tlog.Tree {
	c.t.Helper()
	tree := new(tlog.Tree)
	for _, leaf := range c.leaves[:size] {
		require.NoError(c.t, tree.Append(leaf))
	}
	return tree
}

func (c *smallCity) size() int64 { return int64(len(c.leaves)) }

func (c *smallCity) note(size int64, root tlog.Hash) []byte {
	c.t.Helper()
	keys := c.skeys
	if len(keys) == 0 {
		keys = []string{c.skey}
	}
	signed, err := tlog.SignAll(tlog.Checkpoint{Origin: c.ledger.DID.String(), Size: size, Root: root, Extensions: c.balances(size)}, keys...)
	require.NoError(c.t, err)
	return signed
}

// balances is the line that a checkpoint has of the newest stateDigest before its size.
func (c *smallCity) balances(size int64) []string {
	c.t.Helper()
	for seq := size - 1; seq >= 0; seq-- {
		if e, err := entry.Decode(c.leaves[seq]); err == nil && e.Kind == entry.KindStateDigest {
			hash, err := entry.BalancesHash(e.StateDigest.Balances)
			require.NoError(c.t, err)
			return []string{tlog.BalancesLine(seq, hash)}
		}
	}
	return nil
}

// publish writes checkpoints and receipts into the ledger's repository.
func (c *smallCity) publish() {
	c.t.Helper()
	var previous *entry.Cause
	for _, size := range []int64{c.early, c.size()} {
		if size == c.size() {
			c.publishReceipts()
		}
		root, err := c.tree(size).Root(size)
		require.NoError(c.t, err)
		r := anyMap{
			"origin": c.ledger.DID, "treeSize": size, "rootHash": bytesOf(root[:]), "note": string(c.note(size, root)), "at": "2027-01-04T20:00:00Z",
		}
		if previous != nil {
			r["previous"] = refOf(*previous)
		}
		_, hash, ok, err := tlog.Checkpoint{Size: size, Extensions: c.balances(size)}.Balances()
		require.NoError(c.t, err)
		if ok {
			r["balancesRoot"] = bytesOf(hash[:])
		}
		if c.checkpoint != nil {
			r = c.checkpoint(size, r)
		}
		cause := c.put(c.ledger, lexicons.LedgerCheckpoint, lexicons.SeqKey(size), r)
		previous = &cause
	}
}

func (c *smallCity) publishReceipts() {
	c.t.Helper()
	var entries []*entry.Entry
	for i, leaf := range c.leaves {
		e, err := entry.Decode(leaf)
		entries = append(entries, e)
		if err != nil || e.Kind.Receipt() == "" {
			continue
		}
		var basis *entry.Entry
		if seq, ok := e.Basis(); ok {
			basis = entries[seq]
		} else if e.Kind == entry.KindExpire {
			basis = entries[c.seqOf(entry.KindEpochOpen)]
		}
		causes, params := e.ReceiptCauses(basis)
		hash := tlog.LeafHash(leaf)
		r := anyMap{
			"seq": e.Seq, "kind": e.Kind.Receipt(), "book": e.Book, "epoch": e.Epoch, "amount": e.Amount, "day": e.Day, "leafHash": bytesOf(hash[:]),
			"parameterSet": anyMap{"uri": params.URI, "cid": params.CID},
		}
		if e.Org != "" {
			r["issuer"] = e.Org
		}
		var refs []anyMap
		for _, cause := range causes {
			refs = append(refs, refOf(cause))
		}
		r["causes"] = refs
		switch {
		case e.Kind == entry.KindMint:
			r["votes"] = e.Votes
			r["capState"] = anyMap{"cap": e.Cap.Cap, "issuedBefore": e.Cap.Before}
			r["subject"] = anyMap{"$type": "org.city-sync.defs#blindedSubject", "alg": "hmac-sha256-context-v1", "value": bytesOf(e.Nullifier)}
		case e.Kind.Receipt() == entry.ReceiptBurn:
			r["subject"] = anyMap{"$type": "org.city-sync.defs#commitment", "alg": "sha256-merkle-v1", "value": bytesOf(e.Commitment.Value), "padded": e.Commitment.Padded}
		}
		if c.receipt != nil {
			if r = c.receipt(int64(i), r); r == nil {
				continue
			}
		}
		c.put(c.ledger, lexicons.LedgerReceipt, lexicons.SeqKey(int64(i)), r)
	}
}

func (c *smallCity) servePDS(w http.ResponseWriter, r *http.Request) {
	a := c.accounts[syntax.DID(r.URL.Query().Get("did"))]
	if a == nil || a.Head == nil {
		http.Error(w, `{"error":"RepoNotFound"}`, http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/xrpc/com.atproto.sync.getRepo":
		_, _ = w.Write(a.Repo())
	case "/xrpc/com.atproto.sync.getRecord":
		car, err := repo.Proof(r.Context(), a.Blocks, *a.Head, r.URL.Query().Get("collection")+"/"+r.URL.Query().Get("rkey"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(car)
	default:
		http.NotFound(w, r)
	}
}

func (c *smallCity) serveLog(w http.ResponseWriter, r *http.Request) {
	body, err := c.logAnswer(r.URL.Path)
	if change, ok := c.instead[r.URL.Path]; ok {
		if body = change(body); body == nil {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		err = nil
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = w.Write(body)
}

func (c *smallCity) logAnswer(path string) ([]byte, error) {
	if id, ok := strings.CutPrefix(path, "/evidence/"); ok {
		car, ok := c.evidence[strings.TrimSuffix(id, ".car")]
		if !ok {
			return nil, fmt.Errorf("no evidence")
		}
		return car, nil
	}
	switch path {
	case "/.well-known/citysync.json":
		return json.Marshal(anyMap{
			"city": c.city.DID, "ledger": c.ledger.DID, "plc": c.plc.URL,
			"addresses": anyMap{"web": c.log.URL, "pds": c.pds.URL, "ledger": c.log.URL},
			"log":       anyMap{"origin": c.ledger.DID, "vkey": c.vkey, "url": c.log.URL},
		})
	case "/checkpoint":
		root, err := c.tree(c.size()).Root(c.size())
		if err != nil {
			return nil, err
		}
		return c.note(c.size(), root), nil
	}
	t, err := tlog.ParseTilePath(strings.TrimPrefix(path, "/"))
	if err != nil || !t.In(c.size()) {
		return nil, fmt.Errorf("no tile %s", path)
	}
	if t.Level == tlog.EntriesLevel {
		from, to := t.Leaves()
		return tlog.EncodeBundle(c.leaves[from:to])
	}
	return tlog.ReadTile(t, c.size(), c.tree(c.size()))
}

// bundlePath is where the newest bundle is served.
func (c *smallCity) bundlePath() string {
	list := tlog.Tiles(tlog.EntriesLevel, c.size())
	return "/" + list[len(list)-1].Path()
}
