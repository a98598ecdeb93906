package identity_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"city-sync.org/citysync/internal/identity"
)

const (
	alice = "did:plc:aliceaaaaaaaaaaaaaaaaaaa"
	bob   = "did:plc:bobbbbbbbbbbbbbbbbbbbbbb"
)

// dnsServer answers TXT questions over UDP on loopback; a name it does not have does not exist.
func dnsServer(t *testing.T, records map[string][]string) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			texts, ok := records[strings.TrimSuffix(q.Name.String(), ".")]
			m.Response, m.RecursionAvailable = true, true
			m.Additionals = nil
			if !ok {
				m.RCode = dnsmessage.RCodeNameError
			}
			for _, text := range texts {
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1},
					Body:   &dnsmessage.TXTResource{TXT: []string{text}},
				})
			}
			raw, err := m.Pack()
			if err == nil {
				_, _ = conn.WriteTo(raw, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// pages serves https for every host.
func pages(t *testing.T, serve http.HandlerFunc) *http.Client {
	t.Helper()
	front := httptest.NewTLSServer(serve)
	t.Cleanup(front.Close)
	client := front.Client()
	tr := client.Transport.(*http.Transport)
	tr.TLSClientConfig.InsecureSkipVerify = true
	tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, front.Listener.Addr().String())
	}
	return client
}

func TestHandleResolvesByDNSAndElseByTheWellKnown(t *testing.T) {
	t.Parallel()
	address := dnsServer(t, map[string][]string{
		"_atproto.dns.example.org":     {"v=spf1 -all", "did=" + alice},
		"_atproto.doubled.example.org": {"did=" + alice, "did=" + alice},
		"_atproto.torn.example.org":    {"did=" + alice, "did=" + bob},
		"_atproto.junk.example.org":    {"did=nobody"},
		"_atproto.other.example.org":   {"something else"},
		"_atproto.key.example.org":     {"did=did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"},
	})
	web := pages(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "web.example.org", "other.example.org":
			_, _ = w.Write([]byte(bob + "\n"))
		case "long.example.org":
			_, _ = w.Write([]byte(bob + strings.Repeat(" ", 3000)))
		case "down.example.org":
			http.Error(w, "down", http.StatusServiceUnavailable)
		case "away.example.org":
			http.Redirect(w, r, "https://web.example.org/.well-known/atproto-did", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	})
	web.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	h := &identity.Handles{HTTP: web, TXT: identity.ResolverAt(address).LookupTXT}
	for handle, want := range map[string]string{
		"dns.example.org": alice, "DNS.example.org": alice, "doubled.example.org": alice,
		"web.example.org": bob, "other.example.org": bob,
		"torn.example.org": "", "junk.example.org": "", "key.example.org": "", "nobody.example.org": "", "away.example.org": "",
	} {
		did, err := h.Resolve(t.Context(), syntax.Handle(handle))
		if want == "" {
			require.ErrorIs(t, err, indigo.ErrHandleNotFound, handle)
			continue
		}
		require.NoError(t, err, handle)
		assert.Equal(t, want, did.String(), handle)
	}
	for _, handle := range []string{"down.example.org", "long.example.org"} {
		_, err := h.Resolve(t.Context(), syntax.Handle(handle))
		require.ErrorIs(t, err, indigo.ErrHandleResolutionFailed, "%s may pass", handle)
	}
}

// Names of one machine, or of nobody, are not asked of the network.
func TestHandlesOutsideOfTheNetworkAreNotLookedUp(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	h := &identity.Handles{
		HTTP: pages(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) }),
		TXT: func(context.Context, string) ([]string, error) {
			asked.Add(1)
			return nil, errors.New("asked")
		},
	}
	for _, handle := range []string{"city.test", "host.local", "pds.internal", "x.onion", "me.invalid", "a.localhost"} {
		_, err := h.Resolve(t.Context(), syntax.Handle(handle))
		require.ErrorIs(t, err, indigo.ErrHandleNotFound, handle)
	}
	assert.Zero(t, asked.Load())
}
