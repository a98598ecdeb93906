package pds

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/pages"
	"city-sync.org/citysync/pds/scope"
)

const actsAtOnce = 50

// peoplePage shows who acts for an account, for whom it acts, and what was done in its name.
func (s *Server) peoplePage(v *visit, in signIn) error {
	page, err := s.peopleOf(v, in)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) peopleOf(v *visit, in signIn) (pages.People, error) {
	ctx := v.r.Context()
	page := pages.People{Who: in.who(), Offered: scope.Roles()}
	list, err := s.controllers(ctx, in.DID)
	if err != nil {
		return page, err
	}
	own, err := s.roles(ctx, in.DID)
	if err != nil {
		return page, err
	}
	before := int64(math.MaxInt64)
	if n, err := strconv.ParseInt(v.r.URL.Query().Get("before"), 10, 64); err == nil {
		before = n
	}
	acts, err := s.acts(ctx, in.DID, before, actsAtOnce)
	if err != nil {
		return page, err
	}
	var dids []syntax.DID
	for _, c := range list {
		dids = append(dids, c.Controller)
	}
	for _, a := range acts {
		for _, did := range []*syntax.DID{a.Actor, a.Subject} {
			if did != nil {
				dids = append(dids, *did)
			}
		}
	}
	names, err := s.handles(ctx, dids)
	if err != nil {
		return page, err
	}
	name := func(did *syntax.DID) string {
		switch {
		case did == nil:
			return ""
		case names[*did] != "":
			return names[*did]
		}
		return did.String() // of another server
	}
	for _, c := range list {
		page.People = append(page.People, pages.Person{DID: c.Controller.String(), Name: name(&c.Controller), Role: c.Role, Since: c.Accepted, Invited: c.Invited})
	}
	for _, r := range own {
		page.ActsFor = append(page.ActsFor, pages.Person{DID: r.DID.String(), Name: r.Handle, Role: r.Role, Since: r.Accepted, Invited: r.Invited})
	}
	for _, a := range acts {
		page.Acts = append(page.Acts, pages.Act{At: a.At, Actor: name(a.Actor), Action: a.Action, What: a.Path, Subject: name(a.Subject), Client: a.Client})
	}
	if len(acts) == actsAtOnce {
		page.More = in.path() + "/people?before=" + strconv.FormatInt(acts[len(acts)-1].N, 10)
	}
	return page, nil
}

// peopleForm invites somebody, ends a role, or says yes to one.
func (s *Server) peopleForm(v *visit, in signIn) error {
	ctx := v.r.Context()
	other := syntax.DID(v.form.Get("who"))
	done := ""
	var err error
	switch v.form.Get("do") {
	case "invite":
		return s.inviteForm(v, in)
	case "end": // by the account
		done, err = "roleEnded", s.endRole(ctx, in.DID, other, in.DID, lexicons.PdsRemoveController)
	case "leave": // by who acts for it
		done, err = "roleEnded", s.endRole(ctx, other, in.DID, in.DID, lexicons.PdsRemoveController)
	case "accept":
		done, err = "roleAccepted", s.acceptRole(ctx, other, in.DID, lexicons.PdsAcceptController)
	default:
		return v.fail(http.StatusBadRequest, "badForm")
	}
	switch refusalName(err) {
	case "NotController", "NotInvited":
		done = "roleGone"
	default:
		if err != nil {
			return err
		}
	}
	return v.to(in.path() + "/people?done=" + done)
}

// inviteForm asks for the password: whoever is invited may act for the account from any place.
func (s *Server) inviteForm(v *visit, in signIn) error {
	ctx := v.r.Context()
	who, role := strings.TrimPrefix(strings.TrimSpace(v.form.Get("name")), "@"), v.form.Get("role")
	alert := ""
	ok, err := s.proven(v, in)
	switch {
	case err != nil:
		return err
	case !ok:
		alert = "passwordWrong"
	case !slices.Contains(scope.Roles(), role):
		return v.fail(http.StatusBadRequest, "badForm")
	default:
		acc, err := s.findAccount(ctx, in.DID.String())
		if err != nil {
			return err
		}
		by := &authority{Account: acc, Actor: in.DID, Kind: bySession, Session: in.ID, Method: lexicons.PdsAddController}
		person, err := s.named(ctx, who)
		if err == nil {
			_, err = s.offerRole(ctx, by, person, role, "")
		}
		switch refusalName(err) {
		case "InvalidRequest", "DidNotFound", "HandleNotFound":
			alert = "nobodyFound"
		case "InvalidController":
			alert = "inviteSelf"
		case "TooManyControllers":
			alert = "tooManyPeople"
		default:
			if err != nil {
				return err
			}
		}
	}
	if alert == "" {
		return v.to(in.path() + "/people?done=invited")
	}
	page, err := s.peopleOf(v, in)
	if err != nil {
		return err
	}
	page.Wanted, page.Role = who, role
	return v.again(alert, page)
}
