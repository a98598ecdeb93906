package pds

import (
	"cmp"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

func (s *Server) controllerRoutes(m *xrpc.Mux) {
	small := xrpc.MaxBody(smallBody)
	m.Procedure(lexicons.PdsAddController, s.addController, small)
	m.Procedure(lexicons.PdsAcceptController, s.acceptController, small)
	m.Procedure(lexicons.PdsRemoveController, s.removeController, small)
	m.Query(lexicons.PdsListControllers, s.listControllers)
	m.Query(lexicons.PdsListControlled, s.listControlled)
	m.Query(lexicons.PdsListActs, s.listActs)
}

type controllerView struct {
	Controller syntax.DID `json:"controller"`
	Handle     string     `json:"handle,omitempty"`
	Role       string     `json:"role"`
	Scope      *scope.Set `json:"scope"`
	Invited    time.Time  `json:"invitedAt"`
	Accepted   *time.Time `json:"acceptedAt,omitempty"`
}

type controlledView struct {
	DID      syntax.DID `json:"did"`
	Handle   string     `json:"handle"`
	Role     string     `json:"role"`
	Scope    *scope.Set `json:"scope"`
	Invited  time.Time  `json:"invitedAt"`
	Accepted *time.Time `json:"acceptedAt,omitempty"`
}

func viewControlled(r ownRole) controlledView {
	return controlledView{r.DID, r.Handle, r.Role, r.may(), r.Invited.UTC(), inUTC(r.Accepted)}
}

func inUTC(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// person answers who speaks for themselves: an account here with its password, or one that
// another server holds by a service token.
func (s *Server) person(c *xrpc.Call) (syntax.DID, error) {
	if isServiceToken(c) {
		return s.arrivals.Caller(c)
	}
	a, err := s.owner(c)
	if err != nil {
		return "", err
	}
	return a.Account.DID, nil
}

func (s *Server) addController(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Controller string `json:"controller"`
		Role       string `json:"role"`
		Scope      string `json:"scope"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	person, err := s.named(c.Context(), in.Controller)
	if err != nil {
		return nil, err
	}
	row, err := s.offerRole(c.Context(), a, person, in.Role, in.Scope)
	if err != nil {
		return nil, err
	}
	views, err := s.viewControllers(c, []controller{*row})
	if err != nil {
		return nil, err
	}
	return views[0], nil
}

// viewControllers adds the handles of those whose accounts are here.
func (s *Server) viewControllers(c *xrpc.Call, list []controller) ([]controllerView, error) {
	dids := make([]syntax.DID, len(list))
	for i, row := range list {
		dids[i] = row.Controller
	}
	names, err := s.handles(c.Context(), dids)
	if err != nil {
		return nil, err
	}
	out := make([]controllerView, len(list))
	for i, row := range list {
		out[i] = controllerView{row.Controller, names[row.Controller], row.Role, row.may(), row.Invited.UTC(), inUTC(row.Accepted)}
	}
	return out, nil
}

func (s *Server) acceptController(c *xrpc.Call) (any, error) {
	person, err := s.person(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Account string `json:"account"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	acc, err := s.hosted(c.Context(), in.Account)
	if err != nil {
		return nil, err
	}
	if err := s.acceptRole(c.Context(), acc.DID, person, c.NSID); err != nil {
		return nil, err
	}
	list, err := s.roles(c.Context(), person)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		if r.DID == acc.DID {
			return viewControlled(r), nil
		}
	}
	return nil, errNotController(acc.DID) // removed in the same moment
}

func (s *Server) removeController(c *xrpc.Call) (any, error) {
	asker, err := s.person(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Account    string `json:"account"`
		Controller string `json:"controller"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	acc, err := s.hosted(c.Context(), cmp.Or(in.Account, asker.String()))
	if err != nil {
		return nil, err
	}
	person := asker
	if in.Controller != "" {
		// Whoever is listed can be removed, also where nothing finds that DID any more.
		if did, err := syntax.ParseDID(in.Controller); err == nil {
			person = did
		} else if person, err = s.named(c.Context(), in.Controller); err != nil {
			return nil, err
		}
	}
	if asker != acc.DID && asker != person {
		return nil, xrpc.Errorf(http.StatusForbidden, "Forbidden", "a role is ended by the account's owner or by who holds it")
	}
	return struct{}{}, s.endRole(c.Context(), acc.DID, person, asker, c.NSID)
}

func (s *Server) listControllers(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	list, err := s.controllers(c.Context(), a.Account.DID)
	if err != nil {
		return nil, err
	}
	views, err := s.viewControllers(c, list)
	if err != nil {
		return nil, err
	}
	return struct {
		Controllers []controllerView `json:"controllers"`
	}{views}, nil
}

func (s *Server) listControlled(c *xrpc.Call) (any, error) {
	person, err := s.person(c)
	if err != nil {
		return nil, err
	}
	list, err := s.roles(c.Context(), person)
	if err != nil {
		return nil, err
	}
	out := struct {
		Accounts []controlledView `json:"accounts"`
	}{make([]controlledView, 0, len(list))}
	for _, r := range list {
		out.Accounts = append(out.Accounts, viewControlled(r))
	}
	return out, nil
}

type actView struct {
	ID      int64       `json:"id"`
	At      time.Time   `json:"at"`
	Actor   *syntax.DID `json:"actor,omitempty"`
	Client  string      `json:"client,omitempty"`
	Method  string      `json:"method"`
	Action  string      `json:"action"`
	Path    string      `json:"path"`
	Subject *syntax.DID `json:"subject,omitempty"`
	CID     string      `json:"cid,omitempty"`
	Rev     *string     `json:"rev,omitempty"`
}

func (s *Server) listActs(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	limit, err := c.Int("limit", 50, 1, 100)
	if err != nil {
		return nil, err
	}
	before := int64(math.MaxInt64)
	if raw := c.Param("cursor"); raw != "" {
		if before, err = strconv.ParseInt(raw, 10, 64); err != nil {
			return nil, refused("BadCursor", "the cursor is none of this method")
		}
	}
	list, err := s.acts(c.Context(), a.Account.DID, before, limit)
	if err != nil {
		return nil, err
	}
	out := struct {
		Cursor string    `json:"cursor,omitempty"`
		Acts   []actView `json:"acts"`
	}{Acts: make([]actView, 0, len(list))}
	for _, x := range list {
		v := actView{
			ID: x.N, At: x.At.UTC(), Actor: x.Actor, Client: x.Client, Method: x.Method,
			Action: x.Action, Path: x.Path, Subject: x.Subject, Rev: x.Rev,
		}
		if x.CID != nil {
			id, err := cid.Cast(x.CID)
			if err != nil {
				return nil, err
			}
			v.CID = id.String()
		}
		out.Acts = append(out.Acts, v)
	}
	if int64(len(list)) == limit {
		out.Cursor = strconv.FormatInt(list[len(list)-1].N, 10)
	}
	return out, nil
}
