package xrpc

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// GuardConfig configures GuardedClient.
type GuardConfig struct {
	// AllowLoopback opens this machine's own addresses, on any port and by http. For a city on one machine, never
	// for a service on the network.
	AllowLoopback bool
	Timeout       time.Duration // of the whole exchange, body included; default 10 s
	MaxBytes      int64         // of a body, after decompression; default 512 KiB
	// MaxRedirects follows that many redirects within the same host and port. The default follows none: the caller sees the 3xx.
	MaxRedirects int
}

// ErrAddressRefused says that the guard did not let a request out. Final for that URL.
var ErrAddressRefused = errors.New("address refused")

// GuardedClient is the client for every URL that comes from outside (X4). Answers longer than MaxBytes end in
// ErrAnswerTooLarge.
func GuardedClient(cfg GuardConfig) *http.Client {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 512 << 10
	}
	dialer := &net.Dialer{
		Timeout: min(5*time.Second, cfg.Timeout),
		Control: func(network, address string, _ syscall.RawConn) error {
			return checkDial(network, address, cfg.AllowLoopback)
		},
	}
	tr := &http.Transport{ // no Proxy: a proxy would do the dialing that is judged here
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  cfg.Timeout,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    8,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &http.Client{
		Timeout:   cfg.Timeout,
		Transport: &guard{next: tr, cfg: cfg},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > cfg.MaxRedirects || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

type guard struct {
	next *http.Transport
	cfg  GuardConfig
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := checkURL(req, g.cfg.AllowLoopback); err != nil {
		return nil, err
	}
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength > g.cfg.MaxBytes {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: %d bytes from %s", ErrAnswerTooLarge, resp.ContentLength, req.URL.Host)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil // a WebSocket: its reader bounds each message, and needs the connection as it is
	}
	resp.Body = limitBody(resp.Body, g.cfg.MaxBytes)
	return resp, nil
}

// CloseIdleConnections serves http.Client.CloseIdleConnections.
func (g *guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

func checkURL(req *http.Request, allowLoopback bool) error {
	u := req.URL
	host := u.Hostname()
	if u.User != nil {
		return fmt.Errorf("%w: a URL with a user name", ErrAddressRefused)
	}
	ip, ipErr := netip.ParseAddr(host)
	if allowLoopback && (host == "localhost" || ipErr == nil && isLoopback(ip)) {
		if u.Scheme == "http" || u.Scheme == "https" {
			return nil
		}
	}
	switch {
	case u.Scheme != "https":
		return fmt.Errorf("%w: %s is not https", ErrAddressRefused, u.Scheme)
	case host == "":
		return fmt.Errorf("%w: no host", ErrAddressRefused)
	case ipErr == nil:
		return fmt.Errorf("%w: a bare IP address", ErrAddressRefused)
	case u.Port() != "" && u.Port() != "443":
		return fmt.Errorf("%w: port %s", ErrAddressRefused, u.Port())
	}
	return nil
}

// checkDial judges the address that is about to be connected to, after the name was resolved: a name that
// answers with a private address, or with another one the second time, gets nowhere.
func checkDial(network, address string, allowLoopback bool) error {
	if network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%w: network %s", ErrAddressRefused, network)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrAddressRefused, address)
	}
	if allowLoopback && isLoopback(ap.Addr()) {
		return nil
	}
	if ap.Port() != 443 {
		return fmt.Errorf("%w: port %d", ErrAddressRefused, ap.Port())
	}
	if !isPublic(ap.Addr()) {
		return fmt.Errorf("%w: %s is not a public unicast address", ErrAddressRefused, ap.Addr())
	}
	return nil
}

func isLoopback(a netip.Addr) bool { return a.IsLoopback() && !a.Is4In6() && a.Zone() == "" }

// notPublic lists what is globally routable by its prefix alone but is no public unicast host (IANA special-purpose registries).
var notPublic = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
	"192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)

// publicV6 is the only global unicast space in use. NAT64 (64:ff9b::/96), v4-mapped, unique local, link-local and
// multicast addresses all lie outside it.
var publicV6 = netip.MustParsePrefix("2000::/3")

func prefixes(ss ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

func isPublic(a netip.Addr) bool {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.Is6() && !publicV6.Contains(a) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
