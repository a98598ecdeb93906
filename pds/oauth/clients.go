package oauth

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"city-sync.org/citysync/internal/clock"
)

const (
	maxDocument   = 512 << 10
	fetchPatience = 10 * time.Second
	// maxFetches at once are more than one address may begin within fetchPatience, so that nobody with slow hosts takes all.
	maxFetches     = 128
	maxDocuments   = 1000
	documentFresh  = 10 * time.Minute
	documentStale  = 24 * time.Hour // how long a document is used whose host does not answer
	keysAgainAfter = time.Minute    // a key id that is not known asks for the key set anew, this often at most
)

// clients fetches and remembers what stands at the addresses that clients name. Each process has its own.
type clients struct {
	http          *http.Client
	clock         clock.Clock
	allowLoopback bool
	trusted       []string

	flights singleflight.Group
	slots   chan struct{}

	mu    sync.Mutex // guards known and order
	known map[string]*list.Element
	order *list.List // most recently used in front
}

type kept struct {
	address string
	value   any // *client or map[string]clientKey
	at      time.Time
}

func newClients(cfg Config) *clients {
	hc := *cfg.HTTP
	hc.Timeout = fetchPatience
	// The address is the client's name: what another address says is not of that client.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &clients{
		http: &hc, clock: cfg.Clock, allowLoopback: cfg.AllowLoopback, trusted: cfg.Trusted,
		slots: make(chan struct{}, maxFetches), known: map[string]*list.Element{}, order: list.New(),
	}
}

// get is the client of an id.
func (c *clients) get(ctx context.Context, id string) (*client, error) {
	loopback, at, err := parseClientID(id, c.allowLoopback)
	if err != nil {
		return nil, err
	}
	if loopback {
		return loopbackClient(id)
	}
	v, err := c.read(ctx, id, documentFresh, func(raw []byte) (any, error) {
		var doc document
		if err := json.Unmarshal(raw, &doc); err != nil {
			return nil, badMetadata("the client's metadata is malformed")
		}
		cl, err := doc.client(id, at, c.allowLoopback)
		if err != nil {
			return nil, err
		}
		cl.Trusted = slices.Contains(c.trusted, id)
		return cl, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*client), nil
}

// key is the client's key of an id. A client that changes its keys has a new one known within a minute.
func (c *clients) key(ctx context.Context, cl *client, kid string) (clientKey, bool, error) {
	if cl.keysURI == "" {
		k, ok := cl.keys[kid]
		return k, ok, nil
	}
	for _, fresh := range []time.Duration{documentFresh, keysAgainAfter} {
		v, err := c.read(ctx, cl.keysURI, fresh, func(raw []byte) (any, error) { return parseKeys(raw) })
		if err != nil {
			return clientKey{}, false, err
		}
		if k, ok := v.(map[string]clientKey)[kid]; ok {
			return k, true, nil
		}
	}
	return clientKey{}, false, nil
}

// read answers with what stands at the address, parsed. What was read less than fresh ago is not read again, and where the
// address does not answer, what was read before still counts for a day: a client whose host is down keeps its sessions.
func (c *clients) read(ctx context.Context, address string, fresh time.Duration, parse func([]byte) (any, error)) (any, error) {
	now := c.clock.Now()
	have, ok := c.recall(address)
	if ok && now.Before(have.at.Add(fresh)) {
		return have.value, nil
	}
	// The fetch is shared, so it must not end with the one who asked first.
	flight := c.flights.DoChan(address, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchPatience)
		defer cancel()
		raw, err := c.fetch(ctx, address)
		if err != nil {
			return nil, err
		}
		return parse(raw)
	})
	var res singleflight.Result
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case res = <-flight:
	}
	var silent *silentError
	switch {
	case res.Err == nil:
		c.keep(kept{address: address, value: res.Val, at: now})
		return res.Val, nil
	case !errors.As(res.Err, &silent):
		c.forget(address)
		return nil, res.Err
	case ok && now.Before(have.at.Add(documentStale)):
		return have.value, nil
	}
	return nil, busy(10*time.Second, "the client's metadata cannot be read just now")
}

// silentError says that an address gave no answer that would be final.
type silentError struct{ cause error }

func (e *silentError) Error() string { return "no answer: " + e.cause.Error() }
func (e *silentError) Unwrap() error { return e.cause }

func (c *clients) fetch(ctx context.Context, address string) ([]byte, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, &silentError{ctx.Err()}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, refuse(codeInvalidClient, "the client's address is not one")
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.http.Do(req)
	if refusedByGuard(err) {
		return nil, refuse(codeInvalidClient, "the client's address is not on the public network")
	}
	if err != nil {
		return nil, &silentError{err}
	}
	defer res.Body.Close()
	if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests {
		return nil, &silentError{errors.New(res.Status)}
	}
	if res.StatusCode != http.StatusOK {
		return nil, badMetadata("the client's metadata is answered with status %d", res.StatusCode)
	}
	if mt, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || mt != "application/json" {
		return nil, badMetadata("the client's metadata must be application/json")
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	if tooLarge(err) || len(raw) > maxDocument {
		return nil, badMetadata("the client's metadata is longer than %d bytes", maxDocument)
	}
	if err != nil {
		return nil, &silentError{err}
	}
	return raw, nil
}

func (c *clients) recall(address string) (kept, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.known[address]
	if !ok {
		return kept{}, false
	}
	c.order.MoveToFront(el)
	return el.Value.(kept), true
}

func (c *clients) keep(k kept) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.known[k.address]; ok {
		el.Value = k
		c.order.MoveToFront(el)
		return
	}
	c.known[k.address] = c.order.PushFront(k)
	if c.order.Len() > maxDocuments {
		delete(c.known, c.order.Remove(c.order.Back()).(kept).address)
	}
}

func (c *clients) forget(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.known[address]; ok {
		c.order.Remove(el)
		delete(c.known, address)
	}
}
