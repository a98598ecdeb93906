package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/obs"
	"city-sync.org/citysync/internal/service"
	"city-sync.org/citysync/ledger"
	"city-sync.org/citysync/ledger/signer"
)

const (
	fileNextSeed    = "ledger-log-seed-next"
	fileSignerToken = "signer-token"
)

// logSecrets are what a ledger signs with: keys of its own, or a signer in another process.
type logSecrets struct {
	seed, next []byte // 32 bytes each; next is the key that the log is to change to, none otherwise
	signer     string // address; empty: none
	token      []byte
}

// deps gives them to the ledger.
func (s *logSecrets) deps(ctx context.Context, origin syntax.DID, d *ledger.Deps) error {
	if s.signer != "" {
		remote, err := signer.Dial(ctx, s.signer, s.token)
		if err != nil {
			return err
		}
		d.Signer = remote
		return nil
	}
	var err error
	if d.LogKey, _, err = logKeys(origin, s.seed); err != nil {
		return err
	}
	if s.next != nil {
		d.NextKey, _, err = logKeys(origin, s.next)
	}
	return err
}

// logSecrets reads the log's secrets of a ledger alone.
func (a *alone) logSecrets() (s logSecrets, err error) {
	if s.signer = a.cmd.String("signer"); s.signer != "" {
		s.token, err = a.secret(fileSignerToken)
		s.token = []byte(hex.EncodeToString(s.token))
		return s, err
	}
	if s.seed, err = a.secret(fileLogSeed); err != nil {
		return s, err
	}
	s.next, err = a.optionalSecret(fileNextSeed)
	return s, err
}

func (a *alone) optionalSecret(name string) ([]byte, error) {
	if _, err := os.Lstat(filepath.Join(a.cmd.String("secrets"), name)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return a.secret(name)
}

// signerCommand holds the log's key alone.
func signerCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "signer",
		Usage: "hold the log's key apart from the ledger, and sign one history only",
		Flags: []cli.Flag{
			stringFlag("ledger-did", "", "`DID` of the ledger, which is the log's origin"),
			stringFlag("listen", "", "`ADDRESS`: unix:PATH of a socket, or 127.0.0.1:PORT"),
			stringFlag("state", "", "`FILE` with what was signed last; the file that is lost is not to be replaced by none"),
			secretsFlag(fileLogSeed, fileSignerToken),
		},
		Action: func(ctx context.Context, c *cli.Command) error { return runSigner(ctx, c, s) },
	}
}

func runSigner(ctx context.Context, c *cli.Command, s streams) error {
	if err := needed(c, "ledger-did", "listen", "state", "secrets"); err != nil {
		return err
	}
	a := &alone{cmd: c}
	did, err := a.did("ledger-did")
	if err != nil {
		return err
	}
	secrets, err := a.logSecrets()
	if err != nil {
		return err
	}
	token, err := a.secret(fileSignerToken)
	if err != nil {
		return err
	}
	var skeys []string
	for _, seed := range [][]byte{secrets.seed, secrets.next} {
		if seed == nil {
			continue
		}
		skey, _, err := logKeys(did, seed)
		if err != nil {
			return err
		}
		skeys = append(skeys, skey)
	}
	local, err := signer.Open(c.String("state"), did.String(), skeys...)
	if err != nil {
		return err
	}
	ln, err := listenLocally(ctx, c.String("listen"))
	if err != nil {
		return err
	}
	for _, key := range local.Keys() {
		fmt.Fprintf(s.out, "log-vkey %s\n", key)
	}
	handler := signer.Handler(local, []byte(hex.EncodeToString(token)))
	return service.Run(ctx, obs.Logger(s.err, true, slog.LevelInfo), service.HTTP("signer", []net.Listener{ln}, handler))
}

// listenLocally never listens to the network: the one who may ask is on this machine.
func listenLocally(ctx context.Context, address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("--listen %q is neither unix:PATH nor a loopback address with a port", address)
		}
		return new(net.ListenConfig).Listen(ctx, "tcp", address)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if conn, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
			_ = conn.Close() // somebody answered: that is all we asked
			return nil, fmt.Errorf("a signer listens on %s already", path)
		}
		if err := os.Remove(path); err != nil { // of a signer that ended without removing it
			return nil, err
		}
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return ln, os.Chmod(path, 0o600)
}

// rotateKeyCommand is the log's way to a new key. The log itself names it, the old key signs beside it for two weeks, and the city's
// record changes in between.
func rotateKeyCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "rotate-key",
		Usage: "make the log's next key, or with --finish let go of the old one when its overlap is over",
		Flags: []cli.Flag{
			stringFlag("ledger-did", "", "`DID` of the ledger"),
			boolFlag("finish", "the overlap is over: the next key becomes the key"),
			secretsFlag(fileLogSeed),
		},
		Action: func(_ context.Context, c *cli.Command) error {
			if err := needed(c, "ledger-did", "secrets"); err != nil {
				return err
			}
			return rotateKey(c, s)
		},
	}
}

func rotateKey(c *cli.Command, s streams) error {
	a := &alone{cmd: c}
	did, err := a.did("ledger-did")
	if err != nil {
		return err
	}
	if _, err := a.secret(fileLogSeed); err != nil {
		return err
	}
	next, err := a.optionalSecret(fileNextSeed)
	if err != nil {
		return err
	}
	folder := c.String("secrets")
	if c.Bool("finish") {
		if next == nil {
			return refuse("NoNextKey", "there is no %s to become the key", fileNextSeed)
		}
		old := filepath.Join(folder, fileLogSeed)
		if err := os.Rename(old, old+"-old"); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(folder, fileNextSeed), old); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "the old key is in %s-old: destroy it once the ledger has started without it\n", fileLogSeed)
		return nil
	}
	if next != nil {
		return refuse("KeyRotationOpen", "%s is there already; finish that rotation first", fileNextSeed)
	}
	seed := make([]byte, 32)
	if _, err := rand.Read(seed); err != nil {
		return err
	}
	if err := writeSecretOnce(filepath.Join(folder, fileNextSeed), seed); err != nil {
		return err
	}
	_, vkey, err := logKeys(did, seed)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "log-vkey %s\nStart the ledger again: it names this key in the log and signs with both for two weeks.\n"+
		"Then: citysync admin log-key, and after the two weeks rotate-key --finish.\n", vkey)
	return nil
}

func writeSecretOnce(path string, seed []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%x\n", seed)
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Sync(), f.Close())
}
