package main

import (
	"context"

	"city-sync.org/citysync/internal/service"
)

// lazy is a component that is made when it runs, because what it needs is made by
// the components before it. It calls ready when those after it may start.
type lazy struct {
	name  string
	run   func(ctx context.Context, ready func()) error
	ready chan struct{}
}

func part(name string, run func(ctx context.Context, ready func()) error) service.Component {
	return &lazy{name: name, run: run, ready: make(chan struct{})}
}

func (l *lazy) Name() string           { return l.name }
func (l *lazy) Ready() <-chan struct{} { return l.ready }

func (l *lazy) Run(ctx context.Context) error {
	return l.run(ctx, func() { close(l.ready) })
}
