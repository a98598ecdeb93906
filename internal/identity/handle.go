package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

const (
	handleTimeout = 10 * time.Second
	maxHandleBody = 2048
	maxTXT        = 64 // records looked at
	txtPrefix     = "did="
)

// Handles resolves handles as the network does: by the TXT record _atproto.HANDLE, and where there is none by
// https://HANDLE/.well-known/atproto-did. HTTP must be a guarded client, since strangers name the host.
type Handles struct {
	HTTP *http.Client
	// TXT looks records up; net.Resolver.LookupTXT is one. Without it DNS is not asked.
	TXT func(ctx context.Context, name string) ([]string, error)
}

// Resolve returns the DID that a handle names. identity.ErrHandleNotFound says that neither way names one;
// any other error may pass.
func (h *Handles) Resolve(ctx context.Context, handle syntax.Handle) (syntax.DID, error) {
	handle = handle.Normalize()
	if !handle.AllowedTLD() || handle.TLD() == "test" {
		return "", fmt.Errorf("%w: %s is no name of the network", identity.ErrHandleNotFound, handle)
	}
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	did, dnsErr := h.byDNS(ctx, handle)
	if dnsErr == nil {
		return did, nil
	}
	did, webErr := h.byWeb(ctx, handle)
	switch {
	case webErr == nil:
		return did, nil
	case errors.Is(dnsErr, identity.ErrHandleNotFound) && errors.Is(webErr, identity.ErrHandleNotFound):
		return "", fmt.Errorf("%w: by DNS: %w; by https: %w", identity.ErrHandleNotFound, dnsErr, webErr)
	}
	return "", fmt.Errorf("%w: %s: by DNS: %w; by https: %w", identity.ErrHandleResolutionFailed, handle, dnsErr, webErr)
}

// byDNS takes a record only where all of them name one DID: with two it is nobody's word which is meant.
func (h *Handles) byDNS(ctx context.Context, handle syntax.Handle) (syntax.DID, error) {
	if h.TXT == nil {
		return "", identity.ErrHandleNotFound
	}
	records, err := h.TXT(ctx, "_atproto."+handle.String()+".")
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return "", identity.ErrHandleNotFound
	}
	if err != nil {
		return "", err
	}
	var found []string
	for _, r := range records[:min(len(records), maxTXT)] {
		if v, ok := strings.CutPrefix(r, txtPrefix); ok && !slices.Contains(found, v) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 0:
		return "", identity.ErrHandleNotFound
	case 1:
		return namedDID(found[0])
	}
	return "", fmt.Errorf("%w: %d records name different DIDs", identity.ErrHandleNotFound, len(found))
}

func (h *Handles) byWeb(ctx context.Context, handle syntax.Handle) (syntax.DID, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+handle.String()+"/.well-known/atproto-did", nil)
	if err != nil {
		return "", err
	}
	resp, err := h.HTTP.Do(req)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return "", identity.ErrHandleNotFound
		}
		return "", err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode >= 500:
		return "", fmt.Errorf("status %d", resp.StatusCode)
	default:
		return "", fmt.Errorf("%w: status %d", identity.ErrHandleNotFound, resp.StatusCode)
	}
	raw, err := readAtMost(resp.Body, maxHandleBody)
	if err != nil {
		return "", err
	}
	return namedDID(strings.TrimSpace(string(raw)))
}

func namedDID(s string) (syntax.DID, error) {
	did, err := syntax.ParseDID(s)
	if err != nil || did.Method() != "plc" && did.Method() != "web" {
		return "", fmt.Errorf("%w: what is there is not a did:plc or did:web", identity.ErrHandleNotFound)
	}
	return did, nil
}

// ResolverAt looks names up at one server, HOST:PORT; the machine's own when address is empty.
func ResolverAt(address string) *net.Resolver {
	if address == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
}
