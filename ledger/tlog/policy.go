package tlog

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrPolicy means that a policy's text is malformed. Final.
var ErrPolicy = errors.New("bad policy")

// MaxPolicy bounds a policy's text.
const MaxPolicy = 16 << 10

const (
	maxPolicyItems = 64 // each: logs, witnesses, groups
	quorumNone     = "none"
)

// Policy says which cosigners a checkpoint needs, as C2SP tlog-policy writes it.
type Policy struct {
	Logs      []PolicyLog
	Witnesses []PolicyWitness
	Groups    []PolicyGroup
	Quorum    string // name of a witness or a group, or none
}

// PolicyLog is a log that the policy accepts.
type PolicyLog struct{ Key, URL string }

// PolicyWitness is a witness by the name that the policy gives it.
type PolicyWitness struct{ Name, Key, URL string }

// PolicyGroup counts as cosigning where at least K of its members do.
type PolicyGroup struct {
	Name    string
	K       int
	Members []string
}

// policyParser reads line by line; every name must be defined before it is used.
type policyParser struct {
	p       Policy
	names   map[string]bool
	keys    map[string]bool // raw public keys of each role: two verifier keys over one are the same key
	members map[string]bool
}

// ParsePolicy reads a policy. The error wraps ErrPolicy.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > MaxPolicy {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrPolicy, len(text), MaxPolicy)
	}
	for i, b := range text {
		if b != '\t' && b != '\n' && (b < 0x20 || b == 0x7f) {
			return nil, fmt.Errorf("%w: octet %#x at %d", ErrPolicy, b, i)
		}
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return nil, fmt.Errorf("%w: the last line does not end", ErrPolicy)
	}
	r := policyParser{names: map[string]bool{quorumNone: true}, keys: map[string]bool{}, members: map[string]bool{}}
	n := 0
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		n++
		fields := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		if err := r.line(fields); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrPolicy, n, err)
		}
	}
	if r.p.Quorum == "" {
		return nil, fmt.Errorf("%w: no quorum", ErrPolicy)
	}
	return &r.p, nil
}

func (r *policyParser) line(f []string) error {
	switch f[0] {
	case "log":
		return r.log(f[1:])
	case "witness":
		return r.witness(f[1:])
	case "group":
		return r.group(f[1:])
	case "quorum":
		if len(f) != 2 || r.p.Quorum != "" || !r.names[f[1]] {
			return errors.New("quorum takes one name that is defined before, once")
		}
		r.p.Quorum = f[1]
		return nil
	}
	return fmt.Errorf("%.40q is no item of a policy", f[0])
}

// key reads a verifier key that no other item of its role has.
func (r *policyParser) key(role, vkey string, cosigns bool) error {
	k, err := ParseKey(vkey)
	if err != nil {
		return err
	}
	if k.Cosigns() != cosigns {
		return fmt.Errorf("the key of %s is of another kind than a %s's", k.Name, role)
	}
	if id := role + string(k.Key); r.keys[id] {
		return fmt.Errorf("the key of %s stands twice", k.Name)
	} else {
		r.keys[id] = true
	}
	return nil
}

func address(f []string) (string, error) {
	if len(f) == 0 {
		return "", nil
	}
	rest, ok := strings.CutPrefix(f[0], "https://")
	if !ok {
		rest, ok = strings.CutPrefix(f[0], "http://")
	}
	if host, _, _ := strings.Cut(rest, "/"); !ok || host == "" || strings.ContainsAny(f[0], `@?#\\`) {
		return "", fmt.Errorf("%.80q is no http or https address", f[0])
	}
	return strings.TrimRight(f[0], "/"), nil
}

func (r *policyParser) log(f []string) error {
	if len(f) < 1 || len(f) > 2 || len(r.p.Logs) == maxPolicyItems {
		return errors.New("log takes a key and an address; there are too many, or too few words")
	}
	if err := r.key("log", f[0], false); err != nil {
		return err
	}
	at, err := address(f[1:])
	r.p.Logs = append(r.p.Logs, PolicyLog{Key: f[0], URL: at})
	return err
}

func (r *policyParser) witness(f []string) error {
	if len(f) < 2 || len(f) > 3 || len(r.p.Witnesses) == maxPolicyItems {
		return errors.New("witness takes a name, a key and an address; there are too many, or too few words")
	}
	if err := r.define(f[0]); err != nil {
		return err
	}
	if err := r.key("witness", f[1], true); err != nil {
		return err
	}
	at, err := address(f[2:])
	r.p.Witnesses = append(r.p.Witnesses, PolicyWitness{Name: f[0], Key: f[1], URL: at})
	return err
}

func (r *policyParser) define(name string) error {
	if r.names[name] || len(name) > 128 {
		return fmt.Errorf("the name %.40q is taken or too long", name)
	}
	r.names[name] = true
	return nil
}

func (r *policyParser) group(f []string) error {
	if len(f) < 3 || len(r.p.Groups) == maxPolicyItems {
		return errors.New("group takes a name, a number and members; there are too many, or too few words")
	}
	g := PolicyGroup{Name: f[0], Members: f[2:]}
	for _, m := range g.Members {
		if m == quorumNone || !r.names[m] {
			return fmt.Errorf("%.40q is not defined before", m)
		}
		if r.members[m] {
			return fmt.Errorf("%.40q is a member already", m)
		}
		r.members[m] = true
	}
	switch f[1] {
	case "any":
		g.K = 1
	case "all":
		g.K = len(g.Members)
	default:
		k, err := strconv.Atoi(f[1])
		if err != nil || strconv.Itoa(k) != f[1] || k < 1 || k > len(g.Members) {
			return fmt.Errorf("%.20q is no number of %d members", f[1], len(g.Members))
		}
		g.K = k
	}
	if err := r.define(g.Name); err != nil {
		return err
	}
	r.p.Groups = append(r.p.Groups, g)
	return nil
}

// Witness gives the witness of a verifier key.
func (p *Policy) Witness(vkey string) (PolicyWitness, bool) {
	for _, w := range p.Witnesses {
		if w.Key == vkey {
			return w, true
		}
	}
	return PolicyWitness{}, false
}

// Class gives the group that a witness is a member of, "" where it is in none.
func (p *Policy) Class(name string) string {
	for _, g := range p.Groups {
		for _, m := range g.Members {
			if m == name {
				return g.Name
			}
		}
	}
	return ""
}

// Holds says whether the witnesses of these keys are a quorum.
func (p *Policy) Holds(vkeys ...string) bool {
	has := map[string]bool{quorumNone: true}
	for _, key := range vkeys {
		if w, ok := p.Witness(key); ok {
			has[w.Name] = true
		}
	}
	for _, g := range p.Groups { // members are defined before their group
		n := 0
		for _, m := range g.Members {
			if has[m] {
				n++
			}
		}
		has[g.Name] = n >= g.K
	}
	return has[p.Quorum]
}

// Cosigned is a checkpoint with the cosignatures of a policy's witnesses.
type Cosigned struct {
	Checkpoint
	Cosignatures []Cosignature
	Names        []string // of the witnesses, as the policy has them
	At           time.Time
}

// Check checks a note under the log's keys and the policy: it must be of the log and cosigned by a quorum. The error wraps
// ErrCheckpoint or ErrCosignature.
func (p *Policy) Check(signed []byte, logKeys ...string) (*Cosigned, error) {
	c, _, err := OpenAny(signed, logKeys...)
	if err != nil {
		return nil, err
	}
	out := &Cosigned{Checkpoint: c}
	keys := make([]string, len(p.Witnesses))
	for i, w := range p.Witnesses {
		keys[i] = w.Key
	}
	if out.Cosignatures, err = Cosignatures(signed, keys...); err != nil {
		return nil, err
	}
	var by []string
	for _, s := range out.Cosignatures {
		w, _ := p.Witness(s.Key)
		out.Names = append(out.Names, w.Name)
		by = append(by, s.Key)
		if s.At.After(out.At) {
			out.At = s.At
		}
	}
	if !p.Holds(by...) {
		return nil, fmt.Errorf("%w: checkpoint %d has %d cosignatures, which are no quorum", ErrCosignature, c.Size, len(by))
	}
	return out, nil
}
