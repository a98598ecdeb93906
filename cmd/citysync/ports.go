package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	"city-sync.org/citysync/internal/service"
)

// Places of the services in the run of ports that begins at the base.
const (
	portWeb = iota
	portPDS
	portLedger
	portPLC
	portPrivate
	portCount
)

const (
	defaultPortBase = 2580
	freeTries       = 50
)

// ports holds the open listeners of one city. They are opened before anything else,
// so that a port in use is said at once and nothing has to be undone.
type ports struct {
	base      int
	listeners [portCount][]net.Listener
}

// listenAll opens the run of ports at base, or with base 0 a run that is free.
func listenAll(base int) (*ports, error) {
	if base != 0 {
		return listenAt(base)
	}
	var errs []error
	for range freeTries {
		p, err := listenAt(20000 + rand.IntN(2000)*portCount) //nolint:gosec // any free run will do
		if err == nil {
			return p, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no free run of %d ports: %w", portCount, errors.Join(errs...))
}

func listenAt(base int) (*ports, error) {
	if base < 1 || base+portCount-1 > 65535 {
		return nil, refuse("BadPort", "ports %d to %d: the last one must not exceed 65535", base, base+portCount-1)
	}
	p := &ports{base: base}
	for i := range portCount {
		ls, err := service.Listen(base + i)
		if err != nil {
			p.close()
			return nil, err
		}
		p.listeners[i] = ls
	}
	return p, nil
}

func (p *ports) url(i int) string { return "http://localhost:" + strconv.Itoa(p.base+i) }

func (p *ports) close() {
	for _, ls := range p.listeners {
		for _, l := range ls {
			_ = l.Close() // a server that ran has closed it already
		}
	}
}
