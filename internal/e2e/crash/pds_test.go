//go:build crash

package crash

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/pg/pgdev"
	"city-sync.org/citysync/internal/xrpc"
)

const (
	scribes    = 8 // and as many repositories
	pdsService = "did:plc:serviceserviceserviceser"
	atStart    = "pds/resync/" // where only a server that starts after a restore comes by
)

// aloneOnly are the points that a city at work does not come to: nobody moves, leaves or signs in anew there.
func aloneOnly(label string) bool {
	return strings.HasPrefix(label, "pds/") && !slices.ContainsFunc([]string{"pds/write/", "pds/together/", "pds/create/", "pds/blob/"}, func(step string) bool {
		return strings.HasPrefix(label, step)
	})
}

// host is a PDS alone, on a database and with a directory of its own.
type host struct {
	*city
	url   string
	admin string // password
	plc   *identity.PLC

	// held is for reading by whoever asks something of the PDS, until that is answered, and for writing by who wants to see it at rest.
	held sync.RWMutex
}

func newHost(t *testing.T, bin, dir string) *host {
	t.Helper()
	c := &city{facts: facts{PortBase: freePorts(t)}, dir: dir, data: filepath.Join(dir, "data")}
	secrets := filepath.Join(c.data, "secrets")
	require.NoError(t, os.MkdirAll(secrets, 0o700))
	require.NoError(t, os.Chmod(c.data, 0o755))
	h := &host{city: c, url: c.url(portPDS)}
	for _, name := range []string{"admin-password", "pds-master-key", "pds-token-secret", "plc-rotation-key"} {
		var secret [32]byte
		_, _ = rand.Read(secret[:]) // never errs
		text := hex.EncodeToString(secret[:])
		require.NoError(t, os.WriteFile(filepath.Join(secrets, name), []byte(text+"\n"), 0o600))
		if name == "admin-password" {
			h.admin = text
		}
	}
	c.startPostgres(t)
	t.Cleanup(func() { _ = c.postgres.Stop() })
	c.startPLC(t)
	h.plc = identity.NewPLC(c.url(portPLC), plain)
	c.start(t, bin, "pds", h.url+"/xrpc/_health",
		"--port", strconv.Itoa(c.PortBase+portPDS), "--database-url", c.dsn(pgdev.Database), "--public-url", h.url,
		"--plc-url", c.url(portPLC), "--allow-loopback", "--service-did", pdsService, "--handle-domains", ".test",
		"--blobs", filepath.Join(c.data, "blobs"), "--secrets", secrets, "--limit-factor", "100000")
	return h
}

func (h *host) client(authorization string) *xrpc.Client {
	return &xrpc.Client{Base: h.url, HTTP: patient, Auth: func(context.Context, string) (string, error) { return authorization, nil }}
}

func (h *host) operator() *xrpc.Client {
	return h.client("Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+h.admin)))
}

// pdsRounds are all points of the PDS, with deaths at no point of it and of its database between them, and those of its start at the end.
func pdsRounds(t *testing.T) ([]string, *mathrand.Rand) {
	t.Helper()
	seed := uint64(1)
	if given := os.Getenv("CRASH_SEED"); given != "" {
		var err error
		seed, err = strconv.ParseUint(given, 10, 64)
		require.NoError(t, err, "CRASH_SEED")
	}
	rng := mathrand.New(mathrand.NewPCG(seed, 1))
	var out, last []string
	for _, label := range crash.Labels() {
		switch {
		case strings.HasPrefix(label, atStart):
			last = append(last, fmt.Sprintf("%s#%d", label, 1+rng.IntN(scribes)))
		case strings.HasPrefix(label, "pds/write/"), strings.HasPrefix(label, "pds/together/"):
			for _, most := range []int{20, 100} {
				out = append(out, fmt.Sprintf("%s#%d", label, 1+rng.IntN(most)))
			}
		case strings.HasPrefix(label, "pds/blob/"):
			out = append(out, fmt.Sprintf("%s#%d", label, 1+rng.IntN(5)))
		case strings.HasPrefix(label, "pds/"):
			out = append(out, label+"#1")
		}
	}
	for range 4 {
		out = append(out, "pds "+anyMoment, "postgres "+anyMoment)
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return append(out, last...), rng
}

func TestNoWriteToAPDSIsLostHalfDoneOrToldTwice(t *testing.T) {
	dir, bin := place(t)
	h := newHost(t, bin, dir)
	began := time.Now()
	read := newReader(h)
	acting, stopActing := context.WithCancel(t.Context())
	reading, stopReading := context.WithCancel(t.Context())
	defer stopReading()
	defer stopActing()
	actors, alive := errgroup.WithContext(t.Context())
	readers, alive := errgroup.WithContext(alive)

	var writers []*scribe
	for i := range scribes {
		writers = append(writers, newScribe(t, h, i))
	}
	readers.Go(func() error { return read.run(reading) })
	for _, w := range writers {
		actors.Go(func() error { return h.repeat(acting, peopleEvery, w.step) })
	}
	for _, steps := range h.people(t) {
		actors.Go(func() error { return steps(acting) })
	}
	p := h.process("pds")
	rounds, rng := pdsRounds(t)
	for i, round := range rounds {
		began := time.Now()
		p.forget()
		if strings.HasSuffix(round, anyMoment) {
			read.waits(alive, t, int64(rng.IntN(60)))
		}
		switch {
		case round == "postgres "+anyMoment:
			h.killPostgres(t)
		case round == "pds "+anyMoment:
			require.NoError(t, p.kill())
			require.Equal(t, killed, p.dies(alive, t, round))
		case strings.HasPrefix(round, atStart):
			query(t, h.dsn(pgdev.Database), "insert into pds.resync (did) select did from pds.repo on conflict do nothing") // as pds.Restore does
			p.load(t, round)
			require.NoError(t, p.kill())
			p.diedAt(alive, t, round)
		default:
			p.load(t, round)
			p.diedAt(alive, t, round)
		}
		died := time.Since(began)
		p.serves(alive, t)
		back := time.Since(began) - died
		h.held.Lock()
		h.atRest(alive, t, read)
		acked := 0
		for _, w := range writers {
			acked += w.acked
		}
		h.held.Unlock()
		t.Logf("round %2d  %-28s died after %4.1fs, back after %4.1fs, looked at for %4.1fs; event %d, %d commits acknowledged",
			i+1, round, died.Seconds(), back.Seconds(), (time.Since(began) - died - back).Seconds(), read.sequence(), acked)
		if t.Failed() {
			break
		}
	}
	stopActing()
	require.NoError(t, actors.Wait())
	h.atRest(t.Context(), t, read)
	h.nothingHalfway(t)
	h.exportsVerify(t, read)
	stopReading()
	require.NoError(t, readers.Wait())
	resyncs := len(slices.DeleteFunc(rounds, func(round string) bool { return !strings.HasPrefix(round, atStart) }))
	for _, w := range writers {
		w.check(t, read)
		assert.Equal(t, 1+resyncs, read.syncs[w.did], "%s began in the stream, and again after each restore", w.handle)
	}
	assert.Empty(t, read.wrong, "what the stream said")
	h.replayed(t, read)
	p.end()
	raw, err := os.ReadFile(p.log())
	require.NoError(t, err)
	assert.NotContains(t, string(raw), "broken invariant")
	t.Logf("%.0f s", time.Since(began).Seconds())
}

// repeat does a step over and over until ctx ends. A step that began is brought to its end, and all who step are held while the PDS is looked at.
func (h *host) repeat(ctx context.Context, every time.Duration, step func(context.Context) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		h.held.RLock()
		err := step(context.WithoutCancel(ctx))
		h.held.RUnlock()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}
