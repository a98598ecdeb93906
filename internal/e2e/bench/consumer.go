package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/follow"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// maxStream bounds the commits that one round consumes.
const maxStream = 1500

// A stream is the beginning of a host's firehose, by repository.
type stream struct {
	repos map[syntax.DID]*history
	n     int
}

type history struct {
	key      atcrypto.PublicKey
	events   []*firehose.Commit
	unsigned [][]byte
	sigs     [][]byte
}

var errEnough = errors.New("enough")

func (st *stream) Connected(context.Context) error            { return nil }
func (st *stream) Garbage(_ context.Context, err error) error { return err }
func (st *stream) Event(_ context.Context, e firehose.Event) error {
	c, ok := e.(*firehose.Commit)
	if !ok {
		return nil
	}
	h := st.repos[c.DID]
	if h == nil {
		h = &history{}
		st.repos[c.DID] = h
	}
	h.events = append(h.events, c)
	if st.n++; st.n == maxStream {
		return errEnough
	}
	return nil
}

// read takes the stream from its beginning and prepares what the peers need.
func (b *bench) read(ctx context.Context, s *server) (*stream, error) {
	st := &stream{repos: map[syntax.DID]*history{}}
	client, err := firehose.NewClient(firehose.ClientConfig{Host: s.url, HTTP: b.http, Log: b.log}, st)
	if err != nil {
		return nil, err
	}
	reading, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := client.Run(reading); err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	if st.n == 0 {
		return nil, errors.New("the stream is empty")
	}
	for did, h := range st.repos {
		id, err := s.dir.LookupDID(ctx, did)
		if err != nil {
			return nil, err
		}
		if h.key, err = id.PublicKey(); err != nil {
			return nil, err
		}
		for _, e := range h.events {
			file, err := repo.ReadCAR(bytes.NewReader(e.Blocks), repo.Limits{})
			if err != nil {
				return nil, err
			}
			unsigned, sig, err := unsign(file.Blocks[file.Root])
			if err != nil {
				return nil, err
			}
			h.unsigned, h.sigs = append(h.unsigned, unsigned), append(h.sigs, sig)
		}
	}
	return st, nil
}

// unsign takes a commit object apart: what was signed, and the signature.
func unsign(object []byte) (unsigned, sig []byte, err error) {
	m, err := lexicons.DecodeCBOR(object)
	if err != nil {
		return nil, nil, err
	}
	sig, ok := m["sig"].(atdata.Bytes)
	if !ok {
		return nil, nil, errors.New("a commit without a signature")
	}
	delete(m, "sig")
	unsigned, err = lexicons.EncodeCBOR(m)
	return unsigned, sig, err
}

// each runs fn for every repository on as many goroutines as a follower has, and gives commits a second.
func (st *stream) each(fn func(h *history) error) (float64, error) {
	var g errgroup.Group
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	start := time.Now()
	for _, h := range st.repos {
		g.Go(func() error { return fn(h) })
	}
	err := g.Wait()
	return float64(st.n) / time.Since(start).Seconds(), err
}

func checkSignatures(h *history) error {
	for i := range h.unsigned {
		if err := h.key.HashAndVerify(h.unsigned[i], h.sigs[i]); err != nil {
			return err
		}
	}
	return nil
}

func verifyCommits(ctx context.Context) func(h *history) error {
	return func(h *history) error {
		var have repo.State
		for _, e := range h.events {
			v, err := repo.VerifyCommit(ctx, e, h.key, have, time.Now())
			if err != nil {
				return err
			}
			have = repo.State{Rev: v.Rev, Data: v.Data}
		}
		return nil
	}
}

// consumer measures the AppView's way in, as it runs: firehose, follower, strict verification, index. Beside it stand its parts.
func (b *bench) consumer(ctx context.Context, s *server) error {
	st, err := b.read(ctx, s)
	if err != nil {
		return err
	}
	for round := range rounds {
		signatures, err := st.each(checkSignatures)
		if err != nil {
			return err
		}
		verified, err := st.each(verifyCommits(ctx))
		if err != nil {
			return err
		}
		whole, err := b.index(ctx, s, round, st.n)
		if err != nil {
			return err
		}
		b.add("AppView's consumer, verified and indexed", "commits/s", whole, "bare signature checks/s", signatures)
		b.add("the same", "commits/s", whole, "repo.VerifyCommit/s", verified)
		b.add("repo.VerifyCommit", "commits/s", verified, "bare signature checks/s", signatures)
	}
	return nil
}

// counted is an index that notes when commits are saved.
type counted struct {
	*index.Index
	want int

	mu    sync.Mutex // guards the rest
	n     int
	first time.Time
	took  time.Duration
	done  chan struct{}
}

// Commit implements follow.Sink.
func (c *counted) Commit(ctx context.Context, host string, seq int64, v *repo.Verified) error {
	began := time.Now()
	if err := c.Index.Commit(ctx, host, seq, v); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == 0 {
		c.first = began
	}
	if c.n++; c.n == c.want {
		c.took = time.Since(c.first)
		close(c.done)
	}
	return nil
}

// index follows the host from the beginning of its stream into an empty index.
func (b *bench) index(ctx context.Context, s *server, round, want int) (_ float64, err error) {
	schema := fmt.Sprint("appview", round)
	pool, err := b.open(ctx, schema)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	if err := pg.Migrate(ctx, pool, schema, index.Migrations()); err != nil {
		return 0, err
	}
	x, err := index.New(pool, clock.System(), b.log, prometheus.NewRegistry())
	if err != nil {
		return 0, err
	}
	sink := &counted{Index: x, want: want, done: make(chan struct{})}
	f := follow.New(follow.Config{Host: s.url, Sink: sink, Directory: s.dir, HTTP: b.http, Log: b.log})
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- f.Run(running) }()
	select {
	case <-sink.done:
		cancel()
		return float64(want) / sink.took.Seconds(), <-ended
	case err := <-ended:
		cancel()
		return 0, errors.Join(errors.New("the follower ended before its stream"), err)
	}
}
