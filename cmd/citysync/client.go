package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/internal/identity"
)

// pdsClient speaks to a PDS without an account.
type pdsClient struct {
	endpoint
	keys  *syntax.TIDClock // chooses record keys, no two alike
	homes *homes           // nil where every account lives on this one PDS
}

func newPDSClient(e endpoint) *pdsClient {
	return &pdsClient{endpoint: e, keys: syntax.NewTIDClock(rand.UintN(1024))} //nolint:gosec // keys must differ, not be secret
}

// newNetworkClient speaks to this PDS about its own accounts and to the PDS that an
// account's DID document names about any other. Without a directory it knows this one only.
func newNetworkClient(e endpoint, plcURL string) *pdsClient {
	p := newPDSClient(e)
	if plcURL == "" {
		return p
	}
	p.homes = &homes{plc: identity.NewPLC(plcURL, e.http), known: map[syntax.DID]string{}}
	return p
}

// homes remembers where accounts live. It is safe for concurrent use.
type homes struct {
	plc *identity.PLC

	mu    sync.Mutex
	known map[syntax.DID]string // base address of the PDS; guarded by mu
}

// of is the client of the PDS on which an account lives.
func (p *pdsClient) of(ctx context.Context, did syntax.DID) (*pdsClient, error) {
	if p.homes == nil || did.Method() != "plc" {
		return p, nil
	}
	p.homes.mu.Lock()
	base := p.homes.known[did]
	p.homes.mu.Unlock()
	if base == "" {
		var op identity.Operation
		if err := p.patiently(ctx, func() (err error) {
			op, err = p.homes.plc.Last(ctx, did)
			return err
		}); err != nil {
			return nil, fmt.Errorf("where %s lives: %w", did, err)
		}
		if base = strings.TrimRight(op.Services[fragmentPDS].Endpoint, "/"); base == "" {
			return nil, fmt.Errorf("the DID document of %s names no PDS", did)
		}
		p.homes.mu.Lock()
		p.homes.known[did] = base
		p.homes.mu.Unlock()
	}
	return p.at(base), nil
}

// at is the client of another PDS of the same network.
func (p *pdsClient) at(base string) *pdsClient {
	other := *p
	other.base = base
	return &other
}

// resolve finds the DID of a handle, "" where nobody has it.
func (p *pdsClient) resolve(ctx context.Context, handle string) (syntax.DID, error) {
	var out struct {
		DID syntax.DID `json:"did"`
	}
	err := p.query(ctx, nil, "com.atproto.identity.resolveHandle", url.Values{"handle": {handle}}, &out)
	if named(err, "HandleNotFound", "InvalidRequest", "InvalidHandle") {
		return "", nil
	}
	return out.DID, err
}

// newAccount is what createAccount is asked for.
type newAccount struct {
	Handle      string `json:"handle"`
	Password    string `json:"password"`
	InviteCode  string `json:"inviteCode,omitempty"`
	RecoveryKey string `json:"recoveryKey,omitempty"`
}

// signUp makes an account, with an invite that the admin's password buys. The PDS
// takes a half-made account up again, so the same call may be repeated. The caller has
// looked before that nobody has the handle.
func (p *pdsClient) signUp(ctx context.Context, adminPassword string, a newAccount) (syntax.DID, error) {
	admin := func(context.Context, string) (string, error) {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+adminPassword)), nil
	}
	var invite struct {
		Code string `json:"code"`
	}
	if err := p.procedure(ctx, admin, "com.atproto.server.createInviteCode", map[string]any{"useCount": 1}, &invite); err != nil {
		return "", err
	}
	a.InviteCode = invite.Code
	return p.createAccount(ctx, a)
}

// createAccount makes an account, or finds the one that an earlier call made whose answer
// was lost. The caller has looked before that nobody has the handle.
func (p *pdsClient) createAccount(ctx context.Context, a newAccount) (syntax.DID, error) {
	var out struct {
		DID syntax.DID `json:"did"`
	}
	err := p.procedure(ctx, nil, "com.atproto.server.createAccount", a, &out)
	if named(err, "InvalidInviteCode", "HandleNotAvailable") {
		// Nobody had the handle before. The answer of a first call may be what was lost.
		if did, lookErr := p.resolve(ctx, a.Handle); lookErr != nil || did != "" {
			return did, lookErr
		}
	}
	if err != nil {
		return "", fmt.Errorf("account %s: %w", a.Handle, err)
	}
	return out.DID, nil
}

// record is one record as a repository lists it.
type record struct {
	URI   syntax.ATURI    `json:"uri"`
	CID   string          `json:"cid"`
	Value json.RawMessage `json:"value"`
}

func (r record) ref() *city.Ref { return &city.Ref{Uri: r.URI.String(), Cid: r.CID} }

// get reads a record of any repository; nil where there is none.
func (p *pdsClient) get(ctx context.Context, repo syntax.DID, collection, rkey string) (*record, error) {
	p, err := p.of(ctx, repo)
	if err != nil {
		return nil, err
	}
	var out record
	err = p.query(ctx, nil, "com.atproto.repo.getRecord",
		url.Values{"repo": {repo.String()}, "collection": {collection}, "rkey": {rkey}}, &out)
	if named(err, "RecordNotFound") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &out, nil
}

const maxListed = 100_000

// list reads a whole collection of one repository, oldest key first.
func (p *pdsClient) list(ctx context.Context, repo syntax.DID, collection string) ([]record, error) {
	p, err := p.of(ctx, repo)
	if err != nil {
		return nil, err
	}
	var all []record
	cursor := ""
	for len(all) < maxListed {
		params := url.Values{"repo": {repo.String()}, "collection": {collection}, "limit": {"100"}, "reverse": {"true"}}
		if cursor != "" {
			params.Set("cursor", cursor)
		}
		var page struct {
			Records []record `json:"records"`
			Cursor  string   `json:"cursor"`
		}
		if err := p.query(ctx, nil, "com.atproto.repo.listRecords", params, &page); err != nil {
			return nil, fmt.Errorf("list %s of %s: %w", collection, repo, err)
		}
		all = append(all, page.Records...)
		if page.Cursor == "" || page.Cursor == cursor || len(page.Records) == 0 {
			return all, nil
		}
		cursor = page.Cursor
	}
	return nil, fmt.Errorf("list %s of %s: more than %d records", collection, repo, maxListed)
}

// rev is the newest revision of a repository.
func (p *pdsClient) rev(ctx context.Context, repo syntax.DID) (string, error) {
	p, err := p.of(ctx, repo)
	if err != nil {
		return "", err
	}
	var out struct {
		Rev string `json:"rev"`
	}
	if err := p.query(ctx, nil, "com.atproto.sync.getLatestCommit", url.Values{"did": {repo.String()}}, &out); err != nil {
		return "", fmt.Errorf("latest commit of %s: %w", repo, err)
	}
	return out.Rev, nil
}

// session acts as one account. It signs in when first needed and again when its
// token has run out. It is safe for concurrent use.
type session struct {
	pds      *pdsClient
	DID      syntax.DID
	handle   string
	password string

	mu     sync.Mutex
	access string // guarded by mu
}

func (p *pdsClient) session(did syntax.DID, handle, password string) *session {
	return &session{pds: p, DID: did, handle: handle, password: password}
}

func (s *session) token(ctx context.Context, stale string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.access != "" && s.access != stale {
		return s.access, nil
	}
	var out struct {
		Access string     `json:"accessJwt"`
		DID    syntax.DID `json:"did"`
	}
	in := map[string]string{"identifier": s.handle, "password": s.password}
	if err := s.procedure(ctx, nil, "com.atproto.server.createSession", in, &out); err != nil {
		return "", fmt.Errorf("sign in as %s: %w", s.handle, err)
	}
	if s.DID == "" {
		s.DID = out.DID
	}
	s.access = out.Access
	return s.access, nil
}

// as runs a call with the account's token, once more after a fresh sign-in when
// the token has run out.
func (s *session) as(ctx context.Context, call func(authorize) error) error {
	token := ""
	for range 2 {
		var err error
		if token, err = s.token(ctx, token); err != nil {
			return err
		}
		bearer := "Bearer " + token
		err = call(func(context.Context, string) (string, error) { return bearer, nil })
		if !named(err, "ExpiredToken", "InvalidToken") {
			return err
		}
	}
	return fmt.Errorf("account %s: the server refuses a fresh token", s.handle)
}

// procedure calls the PDS on which the account lives.
func (s *session) procedure(ctx context.Context, auth authorize, nsid string, in, out any) error {
	p, err := s.pds.of(ctx, s.DID)
	if err != nil {
		return err
	}
	return p.procedure(ctx, auth, nsid, in, out)
}

// put writes a record under a key; the same value again changes nothing.
func (s *session) put(ctx context.Context, collection, rkey string, value any) (*city.Ref, error) {
	return s.write(ctx, "com.atproto.repo.putRecord", map[string]any{
		"repo": s.DID, "collection": collection, "rkey": rkey, "record": value,
	})
}

// create writes a new record. Its key is chosen here, so that a try whose answer was
// lost can be repeated.
func (s *session) create(ctx context.Context, collection string, value any) (*city.Ref, error) {
	return s.put(ctx, collection, s.pds.keys.Next().String(), value)
}

func (s *session) write(ctx context.Context, method string, in map[string]any) (*city.Ref, error) {
	var out struct {
		URI string `json:"uri"`
		CID string `json:"cid"`
	}
	err := s.as(ctx, func(auth authorize) error { return s.procedure(ctx, auth, method, in, &out) })
	if err != nil {
		return nil, fmt.Errorf("%s writes %s: %w", s.handle, in["collection"], err)
	}
	return &city.Ref{Uri: out.URI, Cid: out.CID}, nil
}

// maxWrites is how many records one commit may hold.
const maxWrites = 200

// newRecord is one record of a batch.
type newRecord struct {
	collection string
	rkey       string // chosen by createAll where it is empty
	value      any
}

// createAll writes records in as few commits as the protocol allows. Each commit is
// all or nothing, so where its records exist an earlier try, whose answer was lost,
// wrote them.
func (s *session) createAll(ctx context.Context, records []newRecord) ([]*city.Ref, error) {
	var refs []*city.Ref
	for batch := range slices.Chunk(records, maxWrites) {
		written, err := s.createBatch(ctx, batch)
		if named(err, "RecordAlreadyExists") {
			written, err = s.refsOf(ctx, batch)
		}
		if err != nil {
			return refs, fmt.Errorf("%s writes %d records: %w", s.handle, len(batch), err)
		}
		refs = append(refs, written...)
	}
	return refs, nil
}

func (s *session) createBatch(ctx context.Context, records []newRecord) ([]*city.Ref, error) {
	writes := make([]map[string]any, len(records))
	for i := range records {
		if records[i].rkey == "" {
			records[i].rkey = s.pds.keys.Next().String()
		}
		writes[i] = map[string]any{
			"$type": "com.atproto.repo.applyWrites#create", "collection": records[i].collection, "rkey": records[i].rkey, "value": records[i].value,
		}
	}
	var out struct {
		Results []struct {
			URI string `json:"uri"`
			CID string `json:"cid"`
		} `json:"results"`
	}
	err := s.as(ctx, func(auth authorize) error {
		return s.procedure(ctx, auth, "com.atproto.repo.applyWrites", map[string]any{"repo": s.DID, "writes": writes}, &out)
	})
	if err != nil {
		return nil, err
	}
	if len(out.Results) != len(records) {
		return nil, fmt.Errorf("the answer names %d records", len(out.Results))
	}
	refs := make([]*city.Ref, len(records))
	for i, r := range out.Results {
		refs[i] = &city.Ref{Uri: r.URI, Cid: r.CID}
	}
	return refs, nil
}

func (s *session) refsOf(ctx context.Context, records []newRecord) ([]*city.Ref, error) {
	refs := make([]*city.Ref, len(records))
	for i, r := range records {
		rec, err := s.pds.get(ctx, s.DID, r.collection, r.rkey)
		if err != nil {
			return nil, err
		}
		if rec == nil {
			return nil, fmt.Errorf("%s/%s does not exist, others of its batch do", r.collection, r.rkey)
		}
		refs[i] = rec.ref()
	}
	return refs, nil
}

// serviceToken is this account's word to another service that it calls one method.
func (s *session) serviceToken(ctx context.Context, audience syntax.DID, method string) (string, error) {
	var out struct {
		Token string `json:"token"`
	}
	params := url.Values{
		"aud": {audience.String()}, "lxm": {method}, "exp": {strconv.FormatInt(time.Now().Add(time.Minute).Unix(), 10)},
	}
	p, err := s.pds.of(ctx, s.DID)
	if err != nil {
		return "", err
	}
	err = s.as(ctx, func(auth authorize) error {
		return p.query(ctx, auth, "com.atproto.server.getServiceAuth", params, &out)
	})
	if err != nil {
		return "", fmt.Errorf("service token of %s for %s: %w", s.handle, method, err)
	}
	return out.Token, nil
}

// ledgerClient speaks to the city's ledger, as an account or as nobody.
type ledgerClient struct {
	endpoint
	did syntax.DID
}

// as authorizes calls by a token of the account's PDS, made anew for each call.
func (l *ledgerClient) as(s *session) authorize {
	return func(ctx context.Context, nsid string) (string, error) {
		token, err := s.serviceToken(ctx, l.did, nsid)
		if err != nil {
			return "", err
		}
		return "Bearer " + token, nil
	}
}

// rkeyOf is the last part of a record's address.
func rkeyOf(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

// authorOf is the account that an address names.
func authorOf(uri string) syntax.DID {
	rest := strings.TrimPrefix(uri, "at://")
	did, _, _ := strings.Cut(rest, "/")
	return syntax.DID(did)
}

// atURI is the address of a record.
func atURI(did syntax.DID, collection, rkey string) syntax.ATURI {
	return syntax.ATURI("at://" + did.String() + "/" + collection + "/" + rkey)
}
