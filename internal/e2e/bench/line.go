package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// A line is a connection on which its one caller writes a request and reads the answer. An HTTP library hands each from goroutine to
// goroutine: beside a write of a millisecond or two that would be measured as the server's, on whose processors it runs.
type line struct {
	base string // http://HOST:PORT
	auth string

	conn net.Conn
	read *bufio.Reader
	sent bytes.Buffer
	last time.Time // a server ends a connection that is silent for some seconds
}

const lineSilence = time.Second

func (l *line) open(ctx context.Context) error {
	if l.conn != nil && time.Since(l.last) < lineSilence {
		return nil
	}
	if l.conn != nil {
		_ = l.conn.Close()
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(l.base, "http://"))
	if err != nil {
		return err
	}
	l.conn, l.read = conn, bufio.NewReader(conn)
	return nil
}

// call calls a procedure.
func (l *line) call(ctx context.Context, nsid string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if err := l.open(ctx); err != nil {
		return err
	}
	l.sent.Reset()
	fmt.Fprintf(&l.sent, "POST /xrpc/%s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
		nsid, strings.TrimPrefix(l.base, "http://"), l.auth, len(body))
	l.sent.Write(body)
	if _, err := l.conn.Write(l.sent.Bytes()); err != nil {
		return err
	}
	resp, err := http.ReadResponse(l.read, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	l.last = time.Now()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", nsid, resp.Status, raw)
	}
	return json.Unmarshal(raw, out)
}
