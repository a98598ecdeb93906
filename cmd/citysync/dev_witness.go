package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/internal/service"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/witness"
)

// Witnesses of a city under dev: each an institution of the city with a key, a folder and a port of its own.
const (
	defaultWitnesses = 3
	maxWitnesses     = 7
)

// devWitness is one of them. The classes are those of the design: who gives work, who honours credits, and the civic side.
type devWitness struct {
	name, class string
	did         syntax.DID
	port        int
	key         *tlog.Cosigner
}

const (
	classIssuers   = "issuers"
	classRedeemers = "redeemers"
	classCivic     = "civic"
	classAll       = "institutions" // where they are too few for classes: two of three of each
	enoughForEach  = 6
)

// witnesses takes accredited institutions in turn from the three classes; where a class has no more, the next gives one.
func (s *stack) witnesses() ([]devWitness, error) {
	byClass := map[string][]stateAccount{}
	for _, a := range s.state.Accounts {
		switch {
		case slices.Contains(a.Roles, city.RoleIssuer):
			byClass[classIssuers] = append(byClass[classIssuers], a)
		case slices.Contains(a.Roles, city.RoleRedeemer):
			byClass[classRedeemers] = append(byClass[classRedeemers], a)
		case slices.Contains(a.Roles, city.RoleWitness):
			byClass[classCivic] = append(byClass[classCivic], a)
		}
	}
	var out []devWitness
	for turn := 0; len(out) < s.state.Witnesses; turn++ {
		left := false
		for _, class := range []string{classIssuers, classRedeemers, classCivic} {
			if turn >= len(byClass[class]) || len(out) == s.state.Witnesses {
				continue
			}
			left = true
			a := byClass[class][turn]
			seed, err := s.dir.secret(fmt.Sprintf("witness-%d", len(out)+1))
			if err != nil {
				return nil, err
			}
			if s.state.Witnesses < enoughForEach {
				class = classAll
			}
			w := devWitness{name: strings.TrimSuffix(a.Handle, handleDomain), class: class, did: a.DID, port: portWitness + len(out)}
			if w.key, err = tlog.NewCosigner(bytes.NewReader(seed), strings.TrimPrefix(s.ports.url(w.port), "http://")); err != nil {
				return nil, err
			}
			out = append(out, w)
		}
		if !left {
			return nil, refuse("TooFewInstitutions", "the city has %d institutions for %d witnesses", len(out), s.state.Witnesses)
		}
	}
	return out, nil
}

// policy asks for more than half of each class, and for more than half of the classes.
func (s *stack) policy(list []devWitness) string {
	var b strings.Builder
	members := map[string][]string{}
	var classes []string
	for _, w := range list {
		fmt.Fprintf(&b, "witness %s %s %s\n", w.name, w.key.VerifierKey(), s.ports.url(w.port))
		if members[w.class] == nil {
			classes = append(classes, w.class)
		}
		members[w.class] = append(members[w.class], w.name)
	}
	for _, class := range classes {
		fmt.Fprintf(&b, "group %s %d %s\n", class, len(members[class])/2+1, strings.Join(members[class], " "))
	}
	if len(classes) == 1 {
		fmt.Fprintf(&b, "quorum %s\n", classes[0])
		return b.String()
	}
	fmt.Fprintf(&b, "group classes %d %s\nquorum classes\n", len(classes)/2+1, strings.Join(classes, " "))
	return b.String()
}

// witnessParts run beside the city; nothing waits for them.
func (s *stack) witnessParts() []service.Component {
	var parts []service.Component
	for i := range s.state.Witnesses {
		parts = append(parts, part(fmt.Sprintf("witness %d", i+1), func(ctx context.Context, ready func()) error {
			list, err := s.witnesses()
			if err != nil {
				return err
			}
			return s.runWitness(ctx, list[i], ready)
		}))
	}
	return parts
}

func (s *stack) runWitness(ctx context.Context, w devWitness, ready func()) error {
	_, vkey, err := logKeys(s.state.did(idLedger), s.secrets[fileLogSeed])
	if err != nil {
		return err
	}
	name := "witness " + w.name
	one, err := witness.New(ctx, witness.Config{
		Folder: s.dir.file("witness", w.name), LogURL: s.ports.url(portLedger), Origin: s.state.did(idLedger).String(),
		LogKeys: []string{vkey}, Openings: true,
	}, witness.Deps{Key: w.key, HTTP: s.http, Clock: s.clock, Log: s.logger(name), Metrics: s.metrics(name)})
	if err != nil {
		return err
	}
	ready()
	return service.Run(ctx, s.log, service.Func(name, one.Run), service.HTTP(name, s.ports.listeners[w.port], one.Handler()))
}

// bindWitnesses lets the city say in the log who its witnesses are. Said again it changes nothing.
func (s *stack) bindWitnesses(ctx context.Context, as *session, ledger *ledgerClient) error {
	list, err := s.witnesses()
	if err != nil || len(list) == 0 {
		return err
	}
	var named []map[string]any
	for _, w := range list {
		named = append(named, map[string]any{"name": w.name, "did": w.did, "openings": true})
	}
	in := map[string]any{"policy": s.policy(list), "witnesses": named}
	return ledger.procedure(ctx, ledger.as(as), "org.city-sync.ledger.bindWitnesses", in, nil)
}
