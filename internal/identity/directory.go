package identity

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/xrpc"
)

const (
	defaultTTL      = 10 * time.Minute
	defaultErrTTL   = 10 * time.Second
	defaultCapacity = 20_000
	lookupTimeout   = 15 * time.Second
	maxLookups      = 64 // at once; more wait
	maxFailureTTL   = 2 * time.Second
)

// Config configures NewDirectory. Clock is required.
type Config struct {
	PLCURL   string       // the did:plc directory's address
	HTTP     *http.Client // a guarded client; one that reaches public addresses only when nil
	Clock    clock.Clock
	TTL      time.Duration // of an identity, default 10 min
	ErrTTL   time.Duration // of a DID that was not found, default 10 s; other failures are kept for 2 s at most
	Capacity int           // identities kept, default 20,000
	// ResolveHandle says which DID a handle has. Without it no handle is resolved, so that no query leaves the machine.
	ResolveHandle func(ctx context.Context, handle syntax.Handle) (syntax.DID, error)
}

// Directory resolves did:plc and did:web, with a cache. It implements identity.Directory of indigo; handles are
// not verified in a DID look-up and read as handle.invalid. It is safe for concurrent use.
type Directory struct {
	cfg   Config
	slots chan struct{}

	mu      sync.Mutex
	entries map[syntax.DID]*list.Element // guarded by mu; of *cached
	recent  *list.List                   // guarded by mu; newest first
	running map[syntax.DID]*lookup       // guarded by mu
}

var _ identity.Directory = (*Directory)(nil)

type cached struct {
	did   syntax.DID
	id    *identity.Identity
	err   error
	until time.Time
}

// lookup is one resolution that all who ask meanwhile wait for.
type lookup struct {
	done chan struct{} // closed when id and err are set
	id   *identity.Identity
	err  error
}

// NewDirectory makes a Directory.
func NewDirectory(cfg Config) *Directory {
	cfg.PLCURL = strings.TrimSuffix(cfg.PLCURL, "/")
	if cfg.HTTP == nil {
		cfg.HTTP = xrpc.GuardedClient(xrpc.GuardConfig{})
	}
	if cfg.TTL <= 0 {
		cfg.TTL = defaultTTL
	}
	if cfg.ErrTTL <= 0 {
		cfg.ErrTTL = defaultErrTTL
	}
	if cfg.Capacity <= 0 {
		cfg.Capacity = defaultCapacity
	}
	return &Directory{
		cfg:     cfg,
		slots:   make(chan struct{}, maxLookups),
		entries: make(map[syntax.DID]*list.Element),
		recent:  list.New(),
		running: make(map[syntax.DID]*lookup),
	}
}

// LookupDID returns the identity of a DID, which the caller may change. identity.ErrDIDNotFound is final until
// the DID is registered; any other error may pass.
func (d *Directory) LookupDID(ctx context.Context, did syntax.DID) (*identity.Identity, error) {
	d.mu.Lock()
	if c := d.fresh(did); c != nil {
		d.mu.Unlock()
		return result(c.id, c.err)
	}
	l, ok := d.running[did]
	if !ok {
		l = &lookup{done: make(chan struct{})}
		d.running[did] = l
		// The look-up outlives a caller who gives up, for those who wait with it; lookupTimeout ends it.
		lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
		go func() {
			defer cancel()
			d.run(lctx, did, l)
		}()
	}
	d.mu.Unlock()
	select {
	case <-l.done:
		return result(l.id, l.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func result(id *identity.Identity, err error) (*identity.Identity, error) {
	if err != nil {
		return nil, err
	}
	return cloneIdentity(id), nil
}

func (d *Directory) run(ctx context.Context, did syntax.DID, l *lookup) {
	defer close(l.done)
	select {
	case d.slots <- struct{}{}:
		l.id, l.err = d.resolve(ctx, did)
		<-d.slots
	case <-ctx.Done():
		l.err = fmt.Errorf("%w: too many look-ups at once", identity.ErrDIDResolutionFailed)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running[did] != l { // purged meanwhile: what was read may be what the purge was about
		return
	}
	delete(d.running, did)
	ttl := d.cfg.TTL
	switch {
	case errors.Is(l.err, identity.ErrDIDNotFound):
		ttl = d.cfg.ErrTTL
	case l.err != nil: // may pass at any moment: kept just long enough that a crowd asks once
		ttl = min(d.cfg.ErrTTL, maxFailureTTL)
	}
	d.remove(did)
	d.entries[did] = d.recent.PushFront(&cached{did: did, id: l.id, err: l.err, until: d.cfg.Clock.Now().Add(ttl)})
	for d.recent.Len() > d.cfg.Capacity {
		d.remove(d.recent.Back().Value.(*cached).did)
	}
}

// fresh returns the entry of a DID if it may still be used. The caller holds mu.
func (d *Directory) fresh(did syntax.DID) *cached {
	e, ok := d.entries[did]
	if !ok {
		return nil
	}
	c := e.Value.(*cached)
	if now := d.cfg.Clock.Now(); !now.Before(c.until) || c.until.Sub(now) > d.cfg.TTL { // the second: the clock went back
		d.remove(did)
		return nil
	}
	d.recent.MoveToFront(e)
	return c
}

func (d *Directory) remove(did syntax.DID) {
	if e, ok := d.entries[did]; ok {
		d.recent.Remove(e)
		delete(d.entries, did)
	}
}

// LookupHandle returns the identity that a handle resolves to, if its document declares the handle in turn.
func (d *Directory) LookupHandle(ctx context.Context, handle syntax.Handle) (*identity.Identity, error) {
	handle = handle.Normalize()
	if d.cfg.ResolveHandle == nil {
		return nil, fmt.Errorf("%w: handles are not resolved here", identity.ErrHandleResolutionFailed)
	}
	did, err := d.cfg.ResolveHandle(ctx, handle)
	if err != nil {
		return nil, err
	}
	id, err := d.LookupDID(ctx, did)
	if err != nil {
		return nil, err
	}
	declared, err := id.DeclaredHandle()
	if err != nil {
		return nil, err
	}
	if declared != handle {
		return nil, fmt.Errorf("%w: %s is declared as %s", identity.ErrHandleMismatch, handle, declared)
	}
	id.Handle = handle
	return id, nil
}

// Lookup takes either kind of identifier.
func (d *Directory) Lookup(ctx context.Context, a syntax.AtIdentifier) (*identity.Identity, error) {
	if did, err := a.AsDID(); err == nil {
		return d.LookupDID(ctx, did)
	}
	handle, err := a.AsHandle()
	if err != nil {
		return nil, fmt.Errorf("%w: neither DID nor handle", identity.ErrInvalidHandle)
	}
	return d.LookupHandle(ctx, handle)
}

// Purge forgets a DID, so that the next look-up asks anew, even if one is under way. Handles are not cached.
func (d *Directory) Purge(_ context.Context, a syntax.AtIdentifier) error {
	did, err := a.AsDID()
	if err != nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(did)
	delete(d.running, did)
	return nil
}

func (d *Directory) resolve(ctx context.Context, did syntax.DID) (*identity.Identity, error) {
	var url string
	switch did.Method() {
	case "plc":
		if !validPLC(did) {
			return nil, fmt.Errorf("%w: not a did:plc", identity.ErrDIDNotFound)
		}
		url = d.cfg.PLCURL + "/" + did.String()
	case "web":
		host, err := webHost(did)
		if err != nil {
			return nil, err
		}
		url = "https://" + host + "/.well-known/did.json"
	default:
		return nil, fmt.Errorf("%w: unknown method %s", identity.ErrDIDNotFound, did.Method())
	}
	raw, err := d.fetch(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", did, err)
	}
	id, err := parseDocument(did, raw)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", did, err)
	}
	return id, nil
}

func (d *Directory) fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", identity.ErrDIDResolutionFailed, err)
	}
	req.Header.Set("Accept", "application/did+ld+json, application/json")
	resp, err := d.cfg.HTTP.Do(req)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return nil, fmt.Errorf("%w: no such host", identity.ErrDIDNotFound)
		}
		return nil, fmt.Errorf("%w: %w", identity.ErrDIDResolutionFailed, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%w: status %d", identity.ErrDIDNotFound, resp.StatusCode)
	default:
		return nil, fmt.Errorf("%w: status %d", identity.ErrDIDResolutionFailed, resp.StatusCode)
	}
	raw, err := readAtMost(resp.Body, maxDocBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", identity.ErrDIDResolutionFailed, err)
	}
	return raw, nil
}

func validPLC(did syntax.DID) bool {
	id := did.Identifier()
	return len(id) == 24 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// webHost is the host of a did:web as atproto allows it: a public host name, no port, no path.
func webHost(did syntax.DID) (string, error) {
	h, err := syntax.ParseHandle(did.Identifier())
	if err != nil || !h.AllowedTLD() || h.TLD() == "test" {
		return "", fmt.Errorf("%w: a did:web must be a public host name", identity.ErrDIDNotFound)
	}
	return h.Normalize().String(), nil
}
