package ledger

import (
	"context"
	"net/http"
	"strings"
	"time"

	"city-sync.org/citysync/internal/secret"
	"city-sync.org/citysync/internal/xrpc"
)

// Names of refusals about PINs.
const (
	pinMissing = "PinMissing"
	invalidPIN = "InvalidPin"
	wrongPIN   = "WrongPin"
)

const (
	minPIN   = 6
	maxPIN   = 12
	maxWrong = 5  // tries since the last right one; the tables know it too
	maxHash  = 64 // PINs that are hashed or wait for it at once
)

// pinCost is that of a PIN's hash unless the operator says otherwise.
var pinCost = secret.Cost{MemoryKiB: 19 << 10, Passes: 2, Threads: 1}

// pins hashes and compares PINs, outside the sequencer: each takes tens of milliseconds and megabytes.
type pins struct {
	hasher *secret.Hasher
	places chan struct{}
}

func newPINs(cost secret.Cost) *pins {
	if cost == (secret.Cost{}) {
		cost = pinCost
	}
	return &pins{hasher: secret.NewHasher(cost), places: make(chan struct{}, maxHash)}
}

// with runs what hashes, if there is a place.
func (p *pins) with(run func() error) error {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
		return run()
	default:
		return xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "%d PINs are being looked at; nothing happened", maxHash).After(time.Second)
	}
}

func (p *pins) hash(ctx context.Context, pin string) (stored string, err error) {
	err = p.with(func() error {
		stored, err = p.hasher.Hash(ctx, pin)
		return err
	})
	return stored, err
}

// checkPIN holds what a PIN looks like.
func checkPIN(pin string) error {
	if pin == "" {
		return xrpc.Errorf(http.StatusBadRequest, pinMissing, "a PIN is needed: %d to %d digits", minPIN, maxPIN)
	}
	if len(pin) < minPIN || len(pin) > maxPIN || strings.Trim(pin, "0123456789") != "" {
		return xrpc.Errorf(http.StatusBadRequest, invalidPIN, "a PIN has %d to %d digits", minPIN, maxPIN)
	}
	return nil
}
