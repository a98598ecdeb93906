package xrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	defaultMaxAnswer = 8 << 20
	maxErrorAnswer   = 64 << 10
)

// ErrAnswerTooLarge is returned when an answer is longer than the client's limit.
var ErrAnswerTooLarge = errors.New("answer too large")

// Client calls the methods of one service. It is safe for concurrent use; its fields are not changed once it is used.
type Client struct {
	// Base is the service's address, such as http://localhost:2581, without a final slash.
	Base string
	// HTTP does the requests; the default follows no redirect. Use GuardedClient where Base comes from a stranger.
	HTTP *http.Client
	// Auth gives the whole Authorization header for a method, or "" for none.
	Auth func(ctx context.Context, nsid string) (header string, err error)
	Log  *slog.Logger
	// MaxBody bounds a JSON answer; default 8 MiB.
	MaxBody int64
}

var defaultHTTP = &http.Client{
	Timeout:       time.Minute,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Query asks a method. out may be nil, or *json.RawMessage for the bytes as they came. An error answer is an *Error.
func (c *Client) Query(ctx context.Context, nsid string, params url.Values, out any) error {
	resp, err := c.do(ctx, http.MethodGet, nsid, params, "", nil)
	if err != nil {
		return err
	}
	return c.decode(nsid, resp, out)
}

// Procedure calls a method with in as its JSON body (none when nil). Like Query otherwise.
func (c *Client) Procedure(ctx context.Context, nsid string, in, out any) error {
	var body io.Reader
	contentType := ""
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("call %s: encode input: %w", nsid, err)
		}
		body, contentType = bytes.NewReader(raw), "application/json"
	}
	resp, err := c.do(ctx, http.MethodPost, nsid, nil, contentType, body)
	if err != nil {
		return err
	}
	return c.decode(nsid, resp, out)
}

// Upload calls a method with a body that is not JSON, such as a blob or an archive.
func (c *Client) Upload(ctx context.Context, nsid, contentType string, body io.Reader, out any) error {
	resp, err := c.do(ctx, http.MethodPost, nsid, nil, contentType, body)
	if err != nil {
		return err
	}
	return c.decode(nsid, resp, out)
}

// Bytes asks a method whose answer is not JSON, at most max bytes of it.
func (c *Client) Bytes(ctx context.Context, nsid string, params url.Values, max int64) ([]byte, error) {
	rc, err := c.Stream(ctx, nsid, params, max)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", nsid, err)
	}
	return b, nil
}

// Stream is Bytes without holding the answer: reading past max bytes returns ErrAnswerTooLarge. Close it.
func (c *Client) Stream(ctx context.Context, nsid string, params url.Values, max int64) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, nsid, params, "", nil) //nolint:bodyclose // the caller closes the stream
	if err != nil {
		return nil, err
	}
	return limitBody(resp.Body, max), nil
}

func (c *Client) do(ctx context.Context, verb, nsid string, params url.Values, contentType string, body io.Reader) (*http.Response, error) {
	u := strings.TrimSuffix(c.Base, "/") + "/xrpc/" + nsid
	if len(params) > 0 {
		u += "?" + params.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, verb, u, body)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", nsid, err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.Auth != nil {
		h, err := c.Auth(ctx, nsid)
		if err != nil {
			return nil, fmt.Errorf("call %s: authorize: %w", nsid, err)
		}
		if h != "" {
			req.Header.Set("Authorization", h)
		}
	}
	hc := c.HTTP
	if hc == nil {
		hc = defaultHTTP
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", nsid, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		e := ReadError(resp)
		if c.Log != nil {
			c.Log.DebugContext(ctx, "call refused", "method", nsid, "status", e.Status, "name", e.Name)
		}
		return nil, e
	}
	return resp, nil
}

func (c *Client) decode(nsid string, resp *http.Response, out any) error {
	defer resp.Body.Close()
	max := c.MaxBody
	if max <= 0 {
		max = defaultMaxAnswer
	}
	raw, err := io.ReadAll(limitBody(resp.Body, max))
	if err != nil {
		return fmt.Errorf("call %s: %w", nsid, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("call %s: decode answer: %w", nsid, err)
	}
	return nil
}

// ReadError reads an error answer. Whatever the other side sent, the result is bounded text with a name.
func ReadError(resp *http.Response) *Error {
	e := &Error{Status: resp.StatusCode, Name: unknownErrorName, RetryAfter: retryAfter(resp)}
	if resp.StatusCode < 400 { // a redirect that was not followed, or a success that is not 200
		e.Status = http.StatusBadGateway
		e.Message = fmt.Sprintf("unexpected answer %d", resp.StatusCode)
		return e
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorAnswer))
	var b errorBody
	if err != nil || json.Unmarshal(raw, &b) != nil || b.Error == "" {
		e.Message = http.StatusText(resp.StatusCode)
		return e
	}
	e.Name, e.Message, e.Figures = clip(b.Error, maxErrorName), clip(b.Message, maxErrorMessage), b.Figures
	return e
}

func clip(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}

func retryAfter(resp *http.Response) time.Duration {
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(min(n, int(maxRetryAfter/time.Second)))*time.Second, maxRetryAfter)
}

// limitBody makes reading past max bytes an error, where io.LimitReader would end silently.
func limitBody(rc io.ReadCloser, max int64) io.ReadCloser { return &limitedBody{rc: rc, left: max} }

type limitedBody struct {
	rc   io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.left < 0 {
		return 0, ErrAnswerTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.rc.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, ErrAnswerTooLarge
	}
	return n, err
}

func (b *limitedBody) Close() error { return b.rc.Close() }
