package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/repo"
)

// clockSkew is how far a PDS's clock may be behind the directory's: a commit just after a key came into use may say that it
// was made just before.
const clockSkew = 2 * time.Minute

// author is one account as its DID's history and its repository show it.
type author struct {
	did     syntax.DID
	history []identity.AuditEntry // verified; none for a did:web, whose past nobody keeps
	now     atcrypto.PublicKey
	pds     string
	ledger  string // address of its #citysync_ledger service

	mu      sync.Mutex
	fetched bool                      // guarded by mu: the repository was asked for
	err     error                     // guarded by mu: why it could not be had
	full    *repo.Full                // guarded by mu
	records map[string]repo.Record    // guarded by mu: by path
	proved  map[string]verifiedRecord // guarded by mu: by path and cid
	missing map[string]error          // guarded by mu: by path and cid
}

// authors knows every account that a verification meets. It is safe for concurrent use.
type authors struct {
	web *web
	plc *identity.PLC
	dir *identity.Directory // for did:web alone

	mu    sync.Mutex
	known map[syntax.DID]*lookedUp // guarded by mu
	room  int64                    // guarded by mu: bytes of repositories that may still be held
}

type lookedUp struct {
	once sync.Once
	a    *author
	err  error
}

func newAuthors(w *web, plcURL string) *authors {
	return &authors{
		web: w, plc: identity.NewPLC(plcURL, w.small),
		dir:   identity.NewDirectory(identity.Config{PLCURL: plcURL, HTTP: w.small, Clock: clock.System()}),
		known: map[syntax.DID]*lookedUp{}, room: maxVerifyHeld,
	}
}

// get resolves an account once. Its error is one of: the DID's history proves nothing (wrong), or errCouldNot.
func (as *authors) get(ctx context.Context, did syntax.DID) (*author, error) {
	as.mu.Lock()
	l := as.known[did]
	if l == nil {
		l = &lookedUp{}
		as.known[did] = l
	}
	as.mu.Unlock()
	l.once.Do(func() { l.a, l.err = as.resolve(ctx, did) })
	return l.a, l.err
}

func (as *authors) resolve(ctx context.Context, did syntax.DID) (*author, error) {
	a := &author{did: did, records: map[string]repo.Record{}, proved: map[string]verifiedRecord{}, missing: map[string]error{}}
	if did.Method() == "web" {
		id, err := as.dir.LookupDID(ctx, did)
		if err != nil {
			return nil, couldNot("resolve %s: %w", did, err)
		}
		if a.now, err = id.PublicKey(); err != nil {
			return nil, couldNot("key of %s: %w", did, err)
		}
		a.pds, a.ledger = id.PDSEndpoint(), id.GetServiceEndpoint("citysync_ledger")
		return a, nil
	}
	if did.Method() != "plc" {
		return nil, fmt.Errorf("%s is of a method that nobody can resolve", did)
	}
	history, err := as.plc.Audit(ctx, did)
	for try := 0; err != nil && !errors.Is(err, identity.ErrNotRegistered) && try < as.web.retries && pause(ctx, as.web.wait) == nil; try++ {
		history, err = as.plc.Audit(ctx, did)
	}
	if errors.Is(err, identity.ErrNotRegistered) {
		return nil, fmt.Errorf("%s is not registered", did)
	}
	if err != nil {
		return nil, couldNot("history of %s: %w", did, err)
	}
	if err := identity.VerifyAudit(did, history); err != nil {
		return nil, fmt.Errorf("history of %s: %w", did, err)
	}
	a.history = history
	head := history[len(history)-1].Operation
	if a.now, err = identity.KeyAt(history, "atproto", history[len(history)-1].CreatedAt); err != nil {
		return nil, fmt.Errorf("%s has no key now: %w", did, err)
	}
	a.pds = strings.TrimRight(head.Services["atproto_pds"].Endpoint, "/")
	a.ledger = strings.TrimRight(head.Services["citysync_ledger"].Endpoint, "/")
	return a, nil
}

// keysAt are the keys that may have signed a commit of that rev: one, or two where the key changed that very moment.
func (a *author) keysAt(rev string) []atcrypto.PublicKey {
	if a.history == nil {
		return []atcrypto.PublicKey{a.now}
	}
	tid, err := syntax.ParseTID(rev)
	if err != nil {
		return nil
	}
	var keys []atcrypto.PublicKey
	for _, at := range []time.Time{tid.Time(), tid.Time().Add(clockSkew)} {
		if k, err := identity.KeyAt(a.history, "atproto", at); err == nil && (len(keys) == 0 || !keys[0].Equal(k)) {
			keys = append(keys, k)
		}
	}
	return keys
}

// allKeys are the keys that the account ever had, newest first.
func (a *author) allKeys() []atcrypto.PublicKey {
	keys := []atcrypto.PublicKey{a.now}
	for i := len(a.history) - 1; i >= 0; i-- {
		k, err := identity.KeyAt(a.history, "atproto", a.history[i].CreatedAt)
		if err != nil {
			continue
		}
		seen := false
		for _, o := range keys {
			seen = seen || o.Equal(k)
		}
		if !seen {
			keys = append(keys, k)
		}
	}
	return keys
}

// repository fetches and checks the whole repository, once.
func (as *authors) repository(ctx context.Context, a *author) (*repo.Full, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.fetched {
		a.fetched = true
		a.full, a.err = as.fetchRepository(ctx, a)
		if a.err == nil {
			for r := range a.full.Records() {
				a.records[r.Path] = r
			}
		}
	}
	return a.full, a.err
}

// again forgets the repository, so that it is fetched anew.
func (a *author) again() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fetched, a.full, a.err = false, nil, nil
	clear(a.records)
}

func (as *authors) fetchRepository(ctx context.Context, a *author) (*repo.Full, error) {
	if a.pds == "" {
		return nil, fmt.Errorf("%s names no PDS", a.did)
	}
	car, err := as.web.get(ctx, as.web.xrpc(a.pds, "com.atproto.sync.getRepo", url.Values{"did": {a.did.String()}}), maxVerifyRepo)
	if err != nil {
		return nil, couldNot("repository of %s: %w", a.did, err)
	}
	as.mu.Lock()
	as.room -= int64(len(car))
	over := as.room < 0
	as.mu.Unlock()
	if over {
		return nil, couldNot("the repositories that the log cites are more than %d MiB", maxVerifyHeld>>20)
	}
	full, err := repo.VerifyRepo(ctx, bytes.NewReader(car), a.did, a.now, repo.Limits{MaxBytes: maxVerifyRepo, MaxBlocks: maxVerifyBlocks})
	if err != nil {
		return nil, fmt.Errorf("repository of %s: %w", a.did, err)
	}
	return full, nil
}

// current gives the record at a path of a repository that was fetched.
func (a *author) current(path string) (repo.Record, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.records[path]
	return r, ok
}

// record asks for one record by a proof, without the repository around it. nil: the repository proves that it has none.
func (as *authors) record(ctx context.Context, did syntax.DID, collection, rkey string) ([]byte, error) {
	a, err := as.get(ctx, did)
	if err != nil {
		return nil, err
	}
	car, err := as.web.get(ctx, as.web.xrpc(a.pds, "com.atproto.sync.getRecord",
		url.Values{"did": {did.String()}, "collection": {collection}, "rkey": {rkey}}), maxVerifyProof)
	if err != nil {
		if refusedFor(err) {
			return nil, nil
		}
		return nil, couldNot("record %s/%s of %s: %w", collection, rkey, did, err)
	}
	p, err := repo.VerifyProof(car, did, a.now, collection+"/"+rkey)
	if err != nil {
		return nil, fmt.Errorf("record %s/%s of %s: %w", collection, rkey, did, err)
	}
	return p.Record, nil
}

// verifiedRecord is a version of a record that its author signed.
type verifiedRecord struct {
	cid  string
	data []byte
	rev  string // of the commit that proves it; "" where it stands in the repository now
}

var errNoEvidence = errors.New("neither in its author's repository nor in the evidence that the ledger serves")

// version finds one version of a record: in its author's repository as it stands, or else in the evidence that the ledger kept.
// An error that is not errCouldNot says what is wrong with it.
func (as *authors) version(ctx context.Context, ledgerURL string, u syntax.ATURI, id string) (verifiedRecord, error) {
	did, err := u.Authority().AsDID()
	if err != nil {
		return verifiedRecord{}, fmt.Errorf("its author is no DID")
	}
	if _, err := cid.Decode(id); err != nil {
		return verifiedRecord{}, fmt.Errorf("cid %q is none", id)
	}
	a, err := as.get(ctx, did)
	if err != nil {
		return verifiedRecord{}, err
	}
	path := u.Collection().String() + "/" + u.RecordKey().String()
	_, repoErr := as.repository(ctx, a)
	if r, ok := a.current(path); repoErr == nil && ok && r.CID.String() == id {
		return verifiedRecord{cid: id, data: r.Data}, nil
	}
	key := path + " " + id
	a.mu.Lock()
	have, ok := a.proved[key]
	missing := a.missing[key]
	a.mu.Unlock()
	if ok || missing != nil {
		return have, missing
	}
	have, err = as.evidence(ctx, ledgerURL, a, path, id)
	if errors.Is(err, errNoEvidence) && repoErr != nil {
		if errors.Is(repoErr, errCouldNot) {
			return verifiedRecord{}, repoErr // it may well be there
		}
		err = fmt.Errorf("%w; %w", errNoEvidence, repoErr)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err == nil:
		a.proved[key] = have
	case !errors.Is(err, errCouldNot):
		a.missing[key] = err
	}
	return have, err
}

// evidence asks the ledger for the commit that carried a version.
func (as *authors) evidence(ctx context.Context, ledgerURL string, a *author, path, id string) (verifiedRecord, error) {
	car, err := as.web.get(ctx, ledgerURL+"/evidence/"+id+".car?did="+url.QueryEscape(a.did.String()), maxVerifyProof)
	if refusedFor(err) {
		return verifiedRecord{}, errNoEvidence
	}
	if err != nil {
		return verifiedRecord{}, couldNot("evidence of %s: %w", id, err)
	}
	var first error
	for _, key := range a.allKeys() {
		p, err := repo.VerifyProof(car, a.did, key, path)
		if err != nil {
			if first == nil {
				first = fmt.Errorf("the evidence of it does not hold: %w", err)
			}
			continue
		}
		if !p.CID.Defined() || p.CID.String() != id {
			return verifiedRecord{}, fmt.Errorf("the evidence of it proves another version")
		}
		fits := false
		for _, k := range a.keysAt(p.Rev) {
			fits = fits || k.Equal(key)
		}
		if !fits {
			return verifiedRecord{}, fmt.Errorf("the evidence of it is signed by %s, which was not its author's key at %s", key.DIDKey(), p.Rev)
		}
		return verifiedRecord{cid: id, data: p.Record, rev: p.Rev}, nil
	}
	return verifiedRecord{}, first
}
