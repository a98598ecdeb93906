package signer_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/signer"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/voucher"
)

const origin = "did:plc:log"

func skey(t *testing.T, b string) string {
	t.Helper()
	s, _, err := tlog.GenerateKey(strings.NewReader(strings.Repeat(b, 32)), origin)
	require.NoError(t, err)
	return s
}

func tree(t *testing.T, leaves ...string) *tlog.Tree {
	t.Helper()
	tr := new(tlog.Tree)
	for _, l := range leaves {
		require.NoError(t, tr.Append([]byte(l)))
	}
	return tr
}

func request(t *testing.T, tr *tlog.Tree, old int64, keys ...string) signer.Request {
	t.Helper()
	root, err := tr.Root(tr.Size())
	require.NoError(t, err)
	proof, err := tlog.ProveConsistency(tr.Size(), min(old, tr.Size()), tr)
	require.NoError(t, err)
	return signer.Request{Checkpoint: tlog.Checkpoint{Origin: origin, Size: tr.Size(), Root: root}, Keys: keys, Old: old, Proof: proof}
}

// G1
func TestSignerSignsOneHistoryThroughRestarts(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "last.json")
	s, err := signer.Open(file, origin, skey(t, "a"))
	require.NoError(t, err)
	key := s.Keys()[0]
	signed, err := s.Sign(t.Context(), request(t, tree(t, "1", "2"), 0, key))
	require.NoError(t, err)
	_, err = tlog.Open(signed, key)
	require.NoError(t, err)

	s, err = signer.Open(file, origin, skey(t, "a"))
	require.NoError(t, err)
	size, err := s.Last(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, size)
	for name, r := range map[string]signer.Request{
		"another root":        request(t, tree(t, "1", "x"), 2, key),
		"another history":     request(t, tree(t, "1", "x", "3"), 2, key),
		"a smaller one":       request(t, tree(t, "1"), 2, key),
		"a smaller one, at 1": request(t, tree(t, "1"), 1, key),
		"as if none before":   request(t, tree(t, "x", "y", "z"), 0, key),
		"by an unknown key":   request(t, tree(t, "1", "2", "3"), 2, "did:plc:log+00000000+AAAA"),
		"by no key":           request(t, tree(t, "1", "2", "3"), 2),
	} {
		_, err := s.Sign(t.Context(), r)
		require.Error(t, err, name)
	}
	_, err = s.Sign(t.Context(), request(t, tree(t, "1", "2"), 2, key))
	require.NoError(t, err, "the same again")
	_, err = s.Sign(t.Context(), request(t, tree(t, "1", "2", "3"), 2, key))
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(file, []byte("{}"), 0o600))
	_, err = signer.Open(file, origin, skey(t, "a"))
	require.Error(t, err, "a file that is not its own")
}

func TestSignerInAnotherProcessIsTheSameSigner(t *testing.T) {
	t.Parallel()
	local, err := signer.Open(filepath.Join(t.TempDir(), "last.json"), origin, skey(t, "a"), skey(t, "b"))
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "sign") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	require.NoError(t, err)
	srv := httptest.NewUnstartedServer(signer.Handler(local, []byte("secret")))
	srv.Listener = ln
	srv.Start()
	t.Cleanup(srv.Close)

	_, err = signer.Dial(t.Context(), "unix:"+socket, []byte("guess"))
	require.ErrorContains(t, err, fmt.Sprint(http.StatusUnauthorized))
	s, err := signer.Dial(t.Context(), "unix:"+socket, []byte("secret"))
	require.NoError(t, err)
	require.Equal(t, local.Keys(), s.Keys())
	signed, err := s.Sign(t.Context(), request(t, tree(t, "1", "2"), 0, s.Keys()...))
	require.NoError(t, err)
	for _, key := range s.Keys() {
		_, err := tlog.Open(signed, key)
		require.NoError(t, err)
	}
	last, err := s.Last(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, last)
	_, err = s.Sign(t.Context(), request(t, tree(t, "1", "x", "3"), 2, s.Keys()[0]))
	require.ErrorIs(t, err, signer.ErrRefused)
	_, err = s.Voucher(t.Context(), "did:plc:log\n3\nAAAA\n", s.Keys()[:1]) // G2
	require.ErrorIs(t, err, signer.ErrRefused)

	shown := voucher.Voucher{
		Ledger: origin, What: voucher.Burn, Till: "till1", Offering: "at://did:plc:pool/org.city-sync.offer.offering/swim", Version: "bafyswim",
		Units: 1, Credits: 8, Receipt: 7, IssuedAt: time.Unix(0, 0), ExpiresAt: time.Unix(60, 0),
	}
	signed, err = s.Voucher(t.Context(), shown.Text(), s.Keys())
	require.NoError(t, err)
	for _, key := range s.Keys() {
		_, err := voucher.Open(signed, key)
		require.NoError(t, err)
	}
	for _, keys := range [][]string{nil, {s.Keys()[0], "another+00000000+AAAA"}} {
		_, err = s.Voucher(t.Context(), shown.Text(), keys)
		require.ErrorIs(t, err, signer.ErrRefused)
	}
}
