package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/pds/pages"
)

// adminAccountsPage lists accounts by handle; a search takes the beginning of a handle, a whole address, or a DID.
func (s *Server) adminAccountsPage(v *visit, op *Operator) error {
	query := v.r.URL.Query()
	want, after := strings.ToLower(strings.TrimPrefix(strings.TrimSpace(query.Get("q")), "@")), query.Get("after")
	if strings.HasPrefix(want, "did:") {
		want = strings.TrimSpace(query.Get("q")) // a DID is compared as it is
	}
	if len(want) > 2048 || !storable(want) || !storable(after) {
		return v.fail(http.StatusBadRequest, "badForm")
	}
	page := pages.AdminAccounts{Query: want}
	err := v.operate(op, "accounts", "", "", func(ctx context.Context) error {
		const where = `where handle > $1 and ($2 = '' or did = $2 or email = $2 or starts_with(handle, $2)) order by handle limit $3`
		list, err := s.listAccounts(ctx, where, after, want, adminPage)
		for _, a := range list {
			page.Accounts = append(page.Accounts, pages.AdminRow{Handle: a.Handle, DID: a.DID.String(), Status: a.Status, Created: a.Created, Path: adminAccount(a)})
		}
		if len(list) == adminPage {
			page.Next = "/admin/accounts?" + url.Values{"q": {want}, "after": {list[adminPage-1].Handle}}.Encode()
		}
		return err
	})
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "", page)
}

func adminAccount(a *account) string { return "/admin/accounts/" + url.PathEscape(a.DID.String()) }

func (s *Server) adminAccountPage(v *visit, op *Operator) error {
	acc, err := s.findAccount(v.r.Context(), v.r.PathValue("did"))
	if errors.Is(err, pgx.ErrNoRows) {
		return v.fail(http.StatusNotFound, "notFound")
	}
	if err != nil {
		return err
	}
	var page pages.AdminAccount
	err = v.operate(op, "account", acc.DID.String(), "", func(ctx context.Context) error {
		page, err = s.viewForAdmin(ctx, op, acc)
		return err
	})
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) viewForAdmin(ctx context.Context, op *Operator, acc *account) (pages.AdminAccount, error) {
	page := pages.AdminAccount{
		Handle: acc.Handle, DID: acc.DID.String(), Status: acc.Status, Created: acc.Created, Path: adminAccount(acc), Confirmed: acc.EmailConfirmed != nil,
		May: op.Role.includes(RoleModerator), Chief: op.Role.includes(RoleAdministrator),
	}
	if acc.Email != nil {
		page.Email = *acc.Email
	}
	const figures = `
		select (select count(*) from record where did = $1), (select count(*) from blob where did = $1),
			(select coalesce(sum(size), 0)::bigint from blob where did = $1),
			(select count(*) from session where did = $1) + (select count(*) from device where did = $1) + (select count(*) from oauth_session where did = $1),
			(select coalesce(max(rev), '') from repo where did = $1)`
	err := s.pool.QueryRow(ctx, figures, acc.DID).Scan(&page.Records, &page.Blobs, &page.BlobBytes, &page.Sessions, &page.Rev)
	if err != nil {
		return page, err
	}
	if page.TwoStep, err = s.totpOn(ctx, acc.DID.String()); err != nil {
		return page, err
	}
	page.Ref, err = s.takenDown(ctx, acc.DID, "", "")
	return page, err
}

// adminAccountForm does one thing to an account. What only an administrator may do is asked for again by the name of the account's handle.
func (s *Server) adminAccountForm(v *visit, op *Operator) error {
	ctx, form := v.r.Context(), v.form
	acc, err := s.findAccount(ctx, v.r.PathValue("did"))
	if errors.Is(err, pgx.ErrNoRows) {
		return v.fail(http.StatusNotFound, "notFound")
	}
	if err != nil {
		return err
	}
	what := form.Get("do")
	ref := strings.TrimSpace(form.Get("ref"))
	if len(ref) > maxTakedownRef || !storable(ref) {
		return v.fail(http.StatusBadRequest, "badForm")
	}
	if ref == "" {
		ref = fmt.Sprintf("%s %s", op.Name, eventTime(s.clock.Now()))
	}
	acts := map[string]struct {
		need Role
		do   func(context.Context) error
	}{
		"takedown": {RoleModerator, func(ctx context.Context) error { return s.takeDown(ctx, acc.DID, statusTakendown, ref) }},
		"suspend":  {RoleModerator, func(ctx context.Context) error { return s.takeDown(ctx, acc.DID, statusSuspended, ref) }},
		"restore":  {RoleModerator, func(ctx context.Context) error { return s.liftTakedown(ctx, acc.DID) }},
		"lock":     {RoleModerator, func(ctx context.Context) error { return s.lockOut(ctx, acc.DID) }},
		"factor":   {RoleAdministrator, func(ctx context.Context) error { return s.totpRemove(ctx, acc.DID.String()) }},
		"delete":   {RoleAdministrator, func(ctx context.Context) error { return s.delete(ctx, acc.DID) }},
	}
	one, ok := acts[what]
	if !ok {
		return v.fail(http.StatusBadRequest, "badForm")
	}
	if !op.Role.includes(one.need) {
		return v.fail(http.StatusForbidden, "roleTooSmall")
	}
	if one.need == RoleAdministrator && form.Get("handle") != acc.Handle {
		var page pages.AdminAccount
		err := v.operate(op, "account", acc.DID.String(), "", func(ctx context.Context) error {
			page, err = s.viewForAdmin(ctx, op, acc)
			return err
		})
		if err != nil {
			return err
		}
		v.self = page.Path
		return v.again("handleDiffers", page)
	}
	if err := v.operate(op, what, acc.DID.String(), "", one.do); err != nil {
		return err
	}
	if what == "delete" {
		return v.to("/admin/accounts?done=adminDelete")
	}
	return v.to(adminAccount(acc) + "?done=admin")
}
