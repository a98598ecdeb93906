package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/pds"
)

// The PDS that is measured runs in a process of its own, as it does in production and as its peer does: what this process spends on
// clients is not its, nor is this process's memory. The process is this program once more, started with hostWord.
const hostWord = "host"

// hostSettings go to the process on its standard input.
type hostSettings struct {
	DSN, PLC, Dir string
}

const hostSchema = "pds"

// host is a PDS in a process that is measured.
type host struct {
	url   string
	pid   int
	users []*user
	stop  func() error
}

// startHost starts ours.
func (b *bench) startHost(ctx context.Context, dsn, plcURL string) (*host, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(hostSettings{DSN: dsn, PLC: plcURL, Dir: filepath.Join(b.dir, "blobs")})
	if err != nil {
		return nil, err
	}
	return b.child(ctx, exec.CommandContext(context.WithoutCancel(ctx), self, hostWord), append(in, '\n'))
}

// child runs a PDS whose first line on standard output is its address. It stops when its standard input closes.
func (b *bench) child(ctx context.Context, cmd *exec.Cmd, in []byte) (*host, error) {
	var said strings.Builder
	cmd.Stderr = &said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &host{pid: cmd.Process.Pid, stop: func() error {
		_ = stdin.Close() // the process may have ended by itself
		killer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer killer.Stop()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, said.String())
		}
		return nil
	}}
	lines := bufio.NewReader(stdout)
	ready := make(chan error, 1)
	go func() {
		if _, err := stdin.Write(in); err != nil {
			ready <- err
			return
		}
		line, err := lines.ReadString('\n')
		h.url = strings.TrimSpace(line)
		ready <- err
		_, _ = io.Copy(io.Discard, lines) // until it ends
	}()
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case err = <-ready:
	case <-waiting.Done():
		err = waiting.Err()
	}
	if err == nil {
		err = b.populate(ctx, h, "writer")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err), h.stop())
	}
	return h, nil
}

// populate makes the accounts that write.
func (b *bench) populate(ctx context.Context, h *host, name string) error {
	for i := range writers {
		u, err := b.signUp(ctx, h.url, fmt.Sprintf("%s%d.test", name, i))
		if err != nil {
			return err
		}
		h.users = append(h.users, u)
	}
	return nil
}

// serveHost is the process.
func serveHost(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	pds.SpareMemory() // as `citysync pds` does
	stdin := bufio.NewReader(in)
	line, err := stdin.ReadBytes('\n')
	if err != nil {
		return err
	}
	var set hostSettings
	if err := json.Unmarshal(line, &set); err != nil {
		return err
	}
	url, serve, err := listen(ctx)
	if err != nil {
		return err
	}
	pool, err := pg.Open(ctx, set.DSN, hostSchema)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pg.Migrate(ctx, pool, hostSchema, pds.Migrations()); err != nil {
		return err
	}
	rotation, err := atcrypto.GeneratePrivateKeyK256()
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Minute}
	p, err := pds.New(pds.Config{
		PublicURL: url, ServiceDID: "did:plc:serviceserviceserviceser", HandleDomains: []string{".test"}, AllowLoopback: true,
		LimitFactor: 1_000_000, // what is measured is the work, not the limits
	}, pds.Deps{
		Pool: pool, PLC: identity.NewPLC(set.PLC, client), HTTP: client, Clock: clock.System(), Registry: prometheus.NewRegistry(),
		Directory: identity.NewDirectory(identity.Config{PLCURL: set.PLC, HTTP: client, Clock: clock.System()}),
		Log:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})), AdminPassword: rand.Text(),
		MasterKey: random(32), RotationKey: rotation, JWTSecret: random(32), BlobDir: set.Dir,
	})
	if err != nil {
		return err
	}
	srv := serve(p.Handler())
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // ends when who started us closes it, or has died
		cancel()
	}()
	if _, err := fmt.Fprintln(out, url); err != nil {
		return err
	}
	err = p.Run(running)
	return errors.Join(err, srv.Close())
}
