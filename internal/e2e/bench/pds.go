package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/pg/pgdev"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

// writers is how many clients write at once, each into its own repository.
const writers = 8

// server is our PDS with the PLC directory beside it, on loopback.
type server struct {
	*host
	plcURL  string
	dir     *identity.Directory
	servers []*http.Server
}

type user struct {
	did    syntax.DID
	client *xrpc.Client
	line   *line // for writes of one record
}

func (b *bench) startPDS(ctx context.Context) (_ *server, err error) {
	s := &server{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.end())
		}
	}()
	plc, err := plcdev.New(filepath.Join(b.dir, "plc.jsonl"), clock.System())
	if err != nil {
		return nil, err
	}
	var serve func(http.Handler) *http.Server
	if s.plcURL, serve, err = listen(ctx); err != nil {
		return nil, err
	}
	s.servers = append(s.servers, serve(plc.Handler()))
	s.dir = identity.NewDirectory(identity.Config{PLCURL: s.plcURL, HTTP: b.http, Clock: clock.System()})
	s.host, err = b.startHost(ctx, b.dev.DSN(pgdev.Database), s.plcURL)
	return s, err
}

func (s *server) end() error {
	var errs []error
	if s.host != nil {
		errs = append(errs, s.stop())
	}
	for _, h := range s.servers {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

// listen takes a free port; the address is known before there is a handler.
func listen(ctx context.Context) (url string, serve func(http.Handler) *http.Server, err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	return "http://" + l.Addr().String(), func(h http.Handler) *http.Server {
		s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = s.Serve(l) }() // ends with Close, and says so
		return s
	}, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func (b *bench) signUp(ctx context.Context, url, handle string) (*user, error) {
	var out struct {
		DID    syntax.DID `json:"did"`
		Access string     `json:"accessJwt"`
	}
	c := &xrpc.Client{Base: url, HTTP: b.http}
	in := map[string]any{"handle": handle, "password": rand.Text(), "email": handle + "@example.com"} // the reference asks for an address
	if err := c.Procedure(ctx, "com.atproto.server.createAccount", in, &out); err != nil {
		return nil, err
	}
	c.Auth = func(context.Context, string) (string, error) { return "Bearer " + out.Access, nil }
	return &user{did: out.DID, client: c, line: &line{base: url, auth: "Bearer " + out.Access}}, nil
}

// write creates one record, a task of ordinary length, and gives the commit's CID.
func (u *user) write(ctx context.Context) (commit string, err error) {
	var out struct {
		Commit struct {
			CID string `json:"cid"`
		} `json:"commit"`
	}
	err = u.line.call(ctx, "com.atproto.repo.createRecord", map[string]any{
		"repo": u.did, "collection": lexicons.WorkTask, "record": task(),
	}, &out)
	return out.Commit.CID, err
}

var tasks atomic.Int64

// task is a record of ordinary length, which our schemas know, and like no other.
func task() map[string]any {
	return map[string]any{
		"$type": lexicons.WorkTask, "title": fmt.Sprintf("Digital-skills drop-in %d", tasks.Add(1)), "summary": "Tuesday afternoons at the main branch.",
		"entry": map[string]any{"uri": "at://did:plc:w4xbfzo7kqfes5zb7r6qv3rw/org.city-sync.catalog.entry/3mcx5l2w5ss2a",
			"cid": "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"},
		"epoch": "e2027-01", "book": "std", "creditsPerCompletion": 24,
		"shifts": []any{map[string]any{"id": "s1", "startsAt": "2027-01-12T22:00:00Z", "endsAt": "2027-01-13T00:00:00Z", "slots": 10}},
	}
}

// warm lets connections, caches and plans come about.
func (h *host) warm(ctx context.Context) error {
	for _, u := range h.users {
		for range 20 {
			if _, err := u.write(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// writes measures repository writes over HTTP beside what the same database commits at most.
func (b *bench) writes(ctx context.Context, s *server) error {
	pool, err := b.open(ctx, "public")
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, `create table one_row (n bigint)`); err != nil {
		return err
	}
	if err := s.warm(ctx); err != nil {
		return err
	}
	for range rounds {
		for _, clients := range []int{1, writers} {
			ours, err := perSecond(clients, func(i int) error {
				_, err := s.users[i].write(ctx)
				return err
			})
			if err != nil {
				return err
			}
			bare, err := perSecond(clients, func(i int) error {
				_, err := pool.Exec(ctx, `insert into one_row values ($1)`, i)
				return err
			})
			if err != nil {
				return err
			}
			b.add(fmt.Sprintf("repository writes, %d client(s)", clients), "commits/s", ours, "one-row transactions/s", bare)
		}
	}
	return nil
}
