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
	portPDS2    // where the city has a second PDS
	portWitness // the first of the city's witnesses
	portMost    = portWitness + maxWitnesses
)

const (
	defaultPortBase = 2580
	freeTries       = 50
)

// ports holds the open listeners of one city. They are opened before anything else,
// so that a port in use is said at once and nothing has to be undone.
type ports struct {
	base      int
	listeners [portMost][]net.Listener
}

// listenAll opens a run of count ports at base, or with base 0 a run that is free.
func listenAll(base, count int) (*ports, error) {
	if base != 0 {
		return listenAt(base, count)
	}
	var errs []error
	for range freeTries {
		p, err := listenAt(20000+rand.IntN(2000)*portMost, count) //nolint:gosec // any free run will do
		if err == nil {
			return p, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no free run of %d ports: %w", count, errors.Join(errs...))
}

func listenAt(base, count int) (*ports, error) {
	if base < 1 || base+count-1 > 65535 {
		return nil, refuse("BadPort", "ports %d to %d: the last one must not exceed 65535", base, base+count-1)
	}
	p := &ports{base: base}
	for i := range count {
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
	for i := range p.listeners {
		p.free(i)
	}
}

// free gives one port back, for a process of its own to take.
func (p *ports) free(i int) {
	for _, l := range p.listeners[i] {
		_ = l.Close() // a server that ran has closed it already
	}
}
