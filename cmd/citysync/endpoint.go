package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"city-sync.org/citysync/internal/xrpc"
)

const (
	callTimeout = 60 * time.Second // of one call: a busy machine is slow, but not for ever
	awayPause   = 500 * time.Millisecond
)

// httpClient calls the city's own services; loopback is allowed because a city on
// one machine is what these commands are for.
func httpClient() *http.Client { return outbound(true) }

// outbound is the client of a service. What strangers name is reached through the
// guard. A firehose is a connection that is upgraded and lives on, which a limit on
// bodies would cut, and its host is named by the operator, so it goes around it.
func outbound(loopback bool) *http.Client {
	guarded := xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: loopback, Timeout: callTimeout, MaxBytes: 64 << 20})
	streams := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 10 * time.Second,
	}
	guarded.Transport = &upgrades{guarded.Transport, streams}
	return guarded
}

type upgrades struct {
	http.RoundTripper // of everything else
	streams           http.RoundTripper
}

func (u *upgrades) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Upgrade") != "" {
		return u.streams.RoundTrip(req)
	}
	return u.RoundTripper.RoundTrip(req)
}

// endpoint is the address of one service. While the service is away a call is made
// again, for as long as patience says; so every call through it must be one that may
// be repeated.
type endpoint struct {
	base     string
	http     *http.Client
	patience time.Duration
}

// authorize gives the Authorization header for a method. It is asked anew for every
// try: a service token is good once.
type authorize func(ctx context.Context, nsid string) (string, error)

func (e *endpoint) client(auth authorize) *xrpc.Client {
	return &xrpc.Client{Base: e.base, HTTP: e.http, Auth: auth}
}

func (e *endpoint) query(ctx context.Context, auth authorize, nsid string, params url.Values, out any) error {
	return e.patiently(ctx, func() error { return e.client(auth).Query(ctx, nsid, params, out) })
}

func (e *endpoint) procedure(ctx context.Context, auth authorize, nsid string, in, out any) error {
	return e.patiently(ctx, func() error { return e.client(auth).Procedure(ctx, nsid, in, out) })
}

func (e *endpoint) patiently(ctx context.Context, call func() error) error {
	var since time.Time
	for {
		err := call()
		if err == nil || !away(err) || ctx.Err() != nil {
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if waited := time.Since(since); waited >= e.patience {
			if e.patience == 0 {
				return err
			}
			return fmt.Errorf("%s was away for %s: %w", e.base, waited.Round(time.Second), err)
		}
		if pause(ctx, awayPause) != nil {
			return err
		}
	}
}

// away tells a service that does not answer from one that answers no.
func away(err error) bool {
	var answer *xrpc.Error
	if errors.As(err, &answer) {
		switch answer.Status {
		case http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusTooManyRequests:
			return true
		case http.StatusServiceUnavailable:
			return answer.Name != "NotYetSeen" // its caller waits for that by itself
		}
		return false
	}
	var network *url.Error
	return errors.As(err, &network) && !errors.Is(err, xrpc.ErrAddressRefused)
}

// pause waits, or ends early with the context.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answerOf is a service's answer that is an error, nil where there was no answer.
func answerOf(err error) *xrpc.Error {
	var answer *xrpc.Error
	if !errors.As(err, &answer) {
		return nil
	}
	return answer
}

// named tells whether an error is an answer with one of these names.
func named(err error, names ...string) bool {
	answer := answerOf(err)
	return answer != nil && slices.Contains(names, answer.Name)
}
