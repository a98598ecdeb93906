package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/xrpc"
)

const (
	verifyWorkers = 8                // requests at once
	verifyTime    = 30 * time.Minute // for all of it: a server that answers drop by drop ends here

	maxVerifyAnswer = 256 << 10 // of a document
	maxVerifyProof  = 4 << 20   // of a proof: a record of 1 MB and the way to it
	maxVerifyBundle = 20 << 20  // of a bundle of 256 entries
	maxVerifyRepo   = 128 << 20
	maxVerifyHeld   = 2 << 30 // of all repositories
	maxVerifyBlocks = 1_500_000
)

// errCouldNot is wrapped by every error that kept a check from being made, and says nothing about the city: exit code 2.
var errCouldNot = errors.New("could not check")

func couldNot(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errCouldNot, fmt.Errorf(format, args...))
}

// answered is an answer other than 200.
type answered struct {
	status int
	url    string
}

func (e *answered) Error() string { return fmt.Sprintf("%s answered %d", e.url, e.status) }

// refusedFor tells an answer that says no from a server that is away or busy.
func refusedFor(err error) bool {
	var a *answered
	if !errors.As(err, &a) {
		return false
	}
	switch a.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return true
}

// web does every request of a verification.
type web struct {
	small, large *http.Client
	retries      int
	wait         time.Duration // before a request is repeated
}

// newWeb lets requests out to public addresses; to this machine's own only where loopback says so.
func newWeb(loopback bool) *web {
	return &web{
		small: xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: loopback, Timeout: 20 * time.Second, MaxBytes: maxVerifyProof, MaxRedirects: 2}),
		large: xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: loopback, Timeout: 2 * time.Minute, MaxBytes: maxVerifyRepo, MaxRedirects: 2}),

		retries: 2,
		wait:    500 * time.Millisecond,
	}
}

// get reads a whole answer of at most max bytes. An error is an *answered, or the network's.
func (w *web) get(ctx context.Context, address string, max int64) ([]byte, error) {
	client := w.small
	if max > maxVerifyProof {
		client = w.large
	}
	for try := 0; ; try++ {
		body, err := getOnce(ctx, client, address, max)
		var a *answered
		var slow net.Error
		final := errors.As(err, &a) && a.status < 500 && refusedFor(err) || errors.As(err, &slow) && slow.Timeout() ||
			errors.Is(err, xrpc.ErrAddressRefused) || errors.Is(err, xrpc.ErrAnswerTooLarge)
		if err == nil || final || ctx.Err() != nil || try == w.retries {
			return body, err
		}
		if pause(ctx, w.wait) != nil {
			return nil, err
		}
	}
}

func getOnce(ctx context.Context, client *http.Client, address string, max int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &answered{resp.StatusCode, address}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", address, err)
	}
	if int64(len(body)) > max {
		return nil, fmt.Errorf("read %s: %w", address, xrpc.ErrAnswerTooLarge)
	}
	return body, nil
}

// wellKnown is what a city's services say of it. It proves nothing.
type wellKnown struct {
	City   string `json:"city"`
	Ledger string `json:"ledger"`
	Log    struct {
		Origin string   `json:"origin"`
		VKey   string   `json:"vkey"`
		VKeys  []string `json:"vkeys"` // while the log changes its key
		URL    string   `json:"url"`
	} `json:"log"`
	PLC string `json:"plc"`
}

func (w *web) wellKnown(ctx context.Context, base string) (*wellKnown, error) {
	body, err := w.get(ctx, base+"/.well-known/citysync.json", maxVerifyAnswer)
	if err != nil {
		return nil, couldNot("ask %s what city it is of: %w", base, err)
	}
	var out wellKnown
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, couldNot("%s is of no city: %w", base, err)
	}
	return &out, nil
}

func (w *web) xrpc(base, method string, params url.Values) string {
	return strings.TrimRight(base, "/") + "/xrpc/" + method + "?" + params.Encode()
}

// baseURL checks an address and takes its final slash away.
func baseURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is no http or https address", text)
	}
	return strings.TrimRight(text, "/"), nil
}

// onLoopback tells whether an address is on this machine, by its writing alone.
func onLoopback(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	host := u.Hostname()
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// each runs fn over the numbers below n, a few at a time, and stops at the first error.
func each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(verifyWorkers)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return fn(ctx, i) })
	}
	return g.Wait()
}
