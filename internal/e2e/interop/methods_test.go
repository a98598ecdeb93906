//go:build interop

package interop

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each method that the README says is served does what it is for when the official client asks, and refuses by name.
func TestEveryServedMethodAnswersAndRefusesTheOfficialClient(t *testing.T) {
	ws := install(t)
	smtp, letters := postbox(t)
	_, city := foundCity(t, "--smtp-url", smtp)
	ws.run(t, nil, "methods.mjs", city, letters, filepath.Join(root(t), "pds", "README.md"), ws.lexicons)
}

// postbox is a mail server that keeps the last letter of each address. GET ?to=ADDRESS at letters takes it out, and 404 says that there is none.
func postbox(t *testing.T) (smtp, letters string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var box sync.Map // text by address
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			sessions.Go(func() { takeLetter(conn, &box) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		sessions.Wait() // the city, which ended before, holds no connection
	})
	desk := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := box.LoadAndDelete(r.URL.Query().Get("to"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(text.(string)))
	}))
	t.Cleanup(desk.Close)
	return "smtp://" + l.Addr().String(), desk.URL
}

func takeLetter(conn net.Conn, box *sync.Map) {
	defer func() { _ = conn.Close() }()
	say := func(line string) { _, _ = conn.Write([]byte(line + "\r\n")) }
	say("220 mail.example")
	in := bufio.NewScanner(conn)
	var to string
	for in.Scan() {
		switch line := in.Text(); {
		case strings.HasPrefix(line, "RCPT TO:<"):
			to = strings.TrimSuffix(strings.TrimPrefix(line, "RCPT TO:<"), ">")
			say("250 fine")
		case line == "DATA":
			say("354 go on")
			var text strings.Builder
			for in.Scan() && in.Text() != "." {
				text.WriteString(in.Text() + "\n")
			}
			box.Store(to, text.String())
			say("250 taken")
		case line == "QUIT":
			say("221 bye")
			return
		default:
			say("250 fine")
		}
	}
}
