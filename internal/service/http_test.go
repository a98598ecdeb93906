package service

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestListenTakesOnePortOnBothLoopbackAddresses(t *testing.T) {
	t.Parallel()
	ls, err := Listen(0)
	require.NoError(t, err)
	for _, l := range ls {
		defer l.Close()
		assert.Equal(t, Port(ls[0]), Port(l))
		assert.True(t, l.Addr().(*net.TCPAddr).IP.IsLoopback())
	}
	_, err = Listen(Port(ls[0]))
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorContains(t, err, strconv.Itoa(Port(ls[0])))
}

// serve runs a server and returns its address and a function that stops it and gives the
// error of its run.
func serve(t *testing.T, drain time.Duration, h http.HandlerFunc) (addr string, stop func() error) {
	t.Helper()
	ls, err := Listen(0)
	require.NoError(t, err)
	s := HTTP("web", ls, h)
	s.drain = drain
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(cancel)
	<-s.Ready()
	return fmt.Sprintf("localhost:%d", Port(ls[0])), func() error { cancel(); return <-ended }
}

func TestRequestUnderWayIsFinishedAtStop(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	addr, stop := serve(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		assert.NoError(t, r.Context().Err())
		_, _ = io.WriteString(w, "whole")
	})
	body := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + addr)
		if !assert.NoError(t, err) {
			body <- ""
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		body <- string(b)
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	close(release)
	assert.Equal(t, "whole", <-body)
	assert.NoError(t, <-stopped)
	_, err := net.Dial("tcp", addr)
	assert.Error(t, err, "the port is free again")
}

func TestHijackedConnectionIsToldToEndAndWaitedFor(t *testing.T) {
	t.Parallel()
	said := make(chan struct{})
	addr, stop := serve(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "hello\n")
		<-r.Context().Done()
		_, _ = io.WriteString(conn, "bye\n")
		close(said)
	})
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)

	require.NoError(t, stop())
	select {
	case <-said:
	default:
		t.Fatal("the server did not wait")
	}
	line, err = in.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "bye\n", line)
}

func TestHandlerThatNeverReturnsIsReported(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	addr, stop := serve(t, 10*time.Millisecond, func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-release
	})
	t.Cleanup(func() { close(release) })
	go func() {
		if res, err := http.Get("http://" + addr); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-entered
	require.ErrorIs(t, stop(), ErrStuck)
}

func TestLostListenerIsAFailure(t *testing.T) {
	t.Parallel()
	ls, err := Listen(0)
	require.NoError(t, err)
	require.NoError(t, ls[0].Close())
	require.ErrorContains(t, HTTP("web", ls, http.NotFoundHandler()).Run(t.Context()), "serve")
}
