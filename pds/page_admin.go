package pds

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/pages"
)

const (
	adminPath       = "/admin"
	adminSignInPath = "/admin/sign-in"
	adminPage       = 50
)

// adminPages registers what operators see. Whoever is not signed in is led to the sign-in and learns nothing else.
func (s *Server) adminPages(m *xrpc.Mux) {
	mux := http.NewServeMux()
	page := func(pattern string, fn func(*visit) error) { mux.Handle(pattern, s.page(fn)) }
	run := func(pattern string, need Role, fn func(*visit, *Operator) error) { page(pattern, s.operated(need, fn)) }
	page("GET "+adminSignInPath, s.adminSignInPage)
	page("POST "+adminSignInPath, s.adminSignInForm)
	page("POST "+adminSignInPath+"/code", s.adminCodeForm)
	page("POST /admin/sign-out", s.adminSignOut)
	run("GET /admin", RoleReader, s.adminHome)
	run("POST /admin/relay", RoleModerator, s.adminAnnounce)
	run("GET /admin/password", RoleReader, s.adminPasswordPage)
	run("POST /admin/password", RoleReader, s.adminPasswordForm)
	run("POST /admin/mail", RoleAdministrator, s.adminTestMail)
	run("GET /admin/accounts", RoleReader, s.adminAccountsPage)
	run("GET /admin/accounts/{did}", RoleReader, s.adminAccountPage)
	run("POST /admin/accounts/{did}", RoleModerator, s.adminAccountForm)
	run("GET /admin/reports", RoleReader, s.adminReports)
	run("POST /admin/reports", RoleModerator, s.adminReportForm)
	run("GET /admin/invites", RoleReader, s.adminInvitesPage)
	run("POST /admin/invites", RoleModerator, s.adminInvitesForm)
	run("GET /admin/log", RoleReader, s.adminLog)
	page("/", func(v *visit) error { return v.fail(http.StatusNotFound, "notFound") })
	guarded := s.ownOrigin(mux)
	m.Handle("/admin", guarded)
	m.Handle("/admin/", guarded)
}

// operated is for pages of operators whose role allows them.
func (s *Server) operated(need Role, fn func(*visit, *Operator) error) func(*visit) error {
	return func(v *visit) error {
		op, err := s.operatorOn(v.r)
		if err != nil {
			return err
		}
		if op == nil {
			return v.to(adminSignInPath)
		}
		if !op.Role.includes(need) {
			return v.fail(http.StatusForbidden, "roleTooSmall")
		}
		return fn(v, op)
	}
}

// deed is operate for a page.
func (v *visit) operate(op *Operator, method, did, detail string, do func(context.Context) error) error {
	ctx := v.r.Context()
	return v.s.operate(ctx, deed{Operator: op, Method: "page " + method, DID: did, Detail: detail}, func() error { return do(ctx) })
}

func (s *Server) adminSignInPage(v *visit) error {
	op, err := s.operatorOn(v.r)
	if err != nil {
		return err
	}
	if op != nil {
		return v.to(adminPath)
	}
	return v.show(http.StatusOK, "", pages.AdminSignIn{})
}

func (s *Server) adminSignInForm(v *visit) error {
	name := strings.TrimSpace(v.form.Get("name"))
	v.self = adminSignInPath
	stored, ok, err := s.tryOperator(v, name)
	if err != nil {
		return err
	}
	if !ok {
		return v.again("wrongPassword", pages.AdminSignIn{Name: name})
	}
	ticket, err := s.operatorTicketFor(name, stored)
	if err != nil {
		return err
	}
	return s.askOperatorsCode(v, name, ticket, http.StatusOK, "")
}

// askOperatorsCode asks for the second factor, which an operator who has none sets up first.
func (s *Server) askOperatorsCode(v *visit, name, ticket string, status int, alert string) error {
	ctx := v.r.Context()
	page := pages.AdminCode{Name: name, Ticket: ticket}
	on, err := s.totpOn(ctx, name)
	if err != nil {
		return err
	}
	if !on {
		secret, err := s.totpSecret(ctx, name, false)
		if err == nil && secret == nil {
			secret, err = s.totpBegin(ctx, name)
		}
		if errors.Is(err, errFactorOn) {
			return v.to(adminSignInPath) // set up in another window just now
		}
		if err != nil {
			return err
		}
		if page.Setup, err = setup(v.lang, totpURI(s.netloc, name, secret), secret); err != nil {
			return err
		}
	}
	return v.show(status, alert, page)
}

func (s *Server) adminCodeForm(v *visit) error {
	ctx := v.r.Context()
	v.self = adminSignInPath
	ticket, code := v.form.Get("ticket"), v.form.Get("code")
	name, err := s.readOperatorTicket(ctx, ticket)
	if err != nil {
		return err
	}
	if name == "" {
		return v.again("ticketOver", pages.AdminSignIn{})
	}
	on, err := s.totpOn(ctx, name)
	if err != nil {
		return err
	}
	if on {
		ok, err := s.tryFactor(ctx, name, code)
		if err != nil {
			return err
		}
		if !ok {
			return s.askOperatorsCode(v, name, ticket, http.StatusUnprocessableEntity, "codeWrong")
		}
		if err := s.enterOperator(v, name); err != nil {
			return err
		}
		return v.to(adminPath)
	}
	if err := s.limitFactor(name); err != nil {
		return err
	}
	codes, err := s.totpConfirm(ctx, name, code)
	if errors.Is(err, errFactorOn) {
		return v.to(adminSignInPath)
	}
	if err != nil {
		return err
	}
	if codes == nil {
		return s.askOperatorsCode(v, name, ticket, http.StatusUnprocessableEntity, "codeWrong")
	}
	if err := s.enterOperator(v, name); err != nil {
		return err
	}
	return v.show(http.StatusOK, "", pages.AdminRecovery{Codes: codes})
}

func (s *Server) adminSignOut(v *visit) error {
	if err := s.dismissOperator(v.w, v.r); err != nil {
		return err
	}
	return v.to(adminSignInPath + "?done=out")
}

func (s *Server) adminHome(v *visit, op *Operator) error {
	ctx := v.r.Context()
	page := pages.Admin{Operator: op.Name, Role: string(op.Role), May: op.Role.includes(RoleModerator), Chief: op.Role.includes(RoleAdministrator)}
	const figures = `
		select (select count(*) from account), (select count(*) from account where status <> 'active'),
			(select count(*) from report), (select seq from event_head), (select coalesce(sum(size), 0)::bigint from blob)`
	err := s.pool.QueryRow(ctx, figures).Scan(&page.Accounts, &page.Inactive, &page.Reports, &page.Seq, &page.BlobBytes)
	if err != nil {
		return err
	}
	if v.r.URL.Query().Get("check") != "" {
		for _, c := range s.selfCheck(ctx) {
			page.Checks = append(page.Checks, pages.Check{Key: c.Key, OK: c.OK, Skip: c.Skip, Detail: c.Detail})
		}
	}
	relays, err := s.relayViews(ctx)
	if err != nil {
		return err
	}
	for _, r := range relays {
		page.Relays = append(page.Relays, pages.Relay{
			URL: r.URL, Asked: r.Asked, Answer: r.Answer, Ours: r.Ours, Known: r.Known, Status: r.Status, Seq: r.Seq, Accounts: r.Accounts,
			Error: r.Error, Behind: r.Behind(), Ahead: r.Ahead(),
		})
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) adminAnnounce(v *visit, op *Operator) error {
	relay := v.form.Get("relay")
	err := v.operate(op, "announce", "", relay, func(ctx context.Context) error { return s.announceTo(ctx, relay) })
	if err != nil {
		v.s.log.Warn("relay was asked in vain", "error", relayError(err)) // its answer stands on the page
	}
	return v.to(adminPath + "?done=announced")
}

func (s *Server) adminTestMail(v *visit, op *Operator) error {
	to, err := normalEmail(v.form.Get("to"))
	if err != nil {
		return v.to(adminPath + "?done=mailBad")
	}
	err = v.operate(op, "testMail", "", "", func(ctx context.Context) error {
		return s.post(ctx, to, "test", "Test / Prueba: "+s.host, "This server can send mail.\n\nEste servidor puede enviar correo.\n")
	})
	if err != nil {
		return v.to(adminPath + "?done=mailNot")
	}
	return v.to(adminPath + "?done=mailSent")
}

// adminLog lists what operators did, newest first.
func (s *Server) adminLog(v *visit, _ *Operator) error {
	before, err := strconv.ParseInt(v.r.URL.Query().Get("before"), 10, 64)
	if err != nil {
		before = 1<<63 - 1
	}
	const list = `
		select id, at, operator, method, coalesce(did, '') as did, detail, outcome from operator_log
		where id < $1 order by id desc limit $2`
	rows, err := s.pool.Query(v.r.Context(), list, before, adminPage)
	if err != nil {
		return err
	}
	page := pages.AdminLog{}
	if page.Lines, err = pgx.CollectRows(rows, pgx.RowToStructByPos[pages.LogLine]); err != nil {
		return err
	}
	if len(page.Lines) == adminPage {
		page.Next = "/admin/log?before=" + strconv.FormatInt(page.Lines[adminPage-1].ID, 10)
	}
	return v.show(http.StatusOK, "", page)
}

// adminReports lists what was reported and nobody has dealt with, oldest first.
func (s *Server) adminReports(v *visit, op *Operator) error {
	const list = `select id, created, did, subject, coalesce(uri, ''), kind, coalesce(reason, '') from report order by id limit $1`
	rows, err := s.pool.Query(v.r.Context(), list, adminPage)
	if err != nil {
		return err
	}
	page := pages.AdminReports{May: op.Role.includes(RoleModerator)}
	if page.Reports, err = pgx.CollectRows(rows, pgx.RowToStructByPos[pages.Report]); err != nil {
		return err
	}
	err = v.operate(op, "reports", "", strconv.Itoa(len(page.Reports))+" reports", func(context.Context) error { return nil })
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "", page)
}

// adminReportForm puts a report away that was dealt with.
func (s *Server) adminReportForm(v *visit, op *Operator) error {
	id, err := strconv.ParseInt(v.form.Get("id"), 10, 64)
	if err != nil {
		return v.fail(http.StatusBadRequest, "badForm")
	}
	var about string
	err = s.pool.QueryRow(v.r.Context(), `select subject from report where id = $1`, id).Scan(&about)
	if errors.Is(err, pgx.ErrNoRows) {
		return v.to("/admin/reports?done=reportDone")
	}
	if err != nil {
		return err
	}
	err = v.operate(op, "reportDone", about, "report "+strconv.FormatInt(id, 10), func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, `delete from report where id = $1`, id)
		return err
	})
	if err != nil {
		return err
	}
	return v.to("/admin/reports?done=reportDone")
}

func (s *Server) adminInvitesPage(v *visit, op *Operator) error {
	var list []inviteView
	var next string
	err := v.operate(op, "invites", "", "", func(ctx context.Context) (err error) {
		list, next, err = s.allInvites(ctx, false, v.r.URL.Query().Get("after"), adminPage)
		return err
	})
	if err != nil {
		return err
	}
	page := pages.AdminInvites{May: op.Role.includes(RoleModerator)}
	for _, i := range list {
		at, err := time.Parse(time.RFC3339, i.CreatedAt)
		if err != nil {
			return err
		}
		page.Invites = append(page.Invites, pages.Invite{Code: i.Code, For: i.ForAccount, Left: i.Available, Used: len(i.Uses), Disabled: i.Disabled, Created: at})
	}
	if next != "" {
		page.Next = "/admin/invites?after=" + url.QueryEscape(next)
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) adminInvitesForm(v *visit, op *Operator) error {
	form := v.form
	switch form.Get("do") {
	case "make":
		uses, err := strconv.ParseInt(form.Get("uses"), 10, 64)
		if err != nil || checkUses(uses) != nil {
			return v.fail(http.StatusBadRequest, "badForm")
		}
		err = v.operate(op, "invite", "", strconv.FormatInt(uses, 10)+" uses", func(ctx context.Context) error {
			_, err := s.invite(ctx, []string{operatorsName}, 1, uses)
			return err
		})
		if err != nil {
			return err
		}
		return v.to("/admin/invites?done=inviteMade")
	case "shut":
		code := form.Get("code")
		if !storable(code) {
			return v.fail(http.StatusBadRequest, "badForm")
		}
		err := v.operate(op, "shutInvite", "", "", func(ctx context.Context) error { return s.disableInvites(ctx, []string{code}, nil) })
		if err != nil {
			return err
		}
		return v.to("/admin/invites?done=inviteShut")
	}
	return v.fail(http.StatusBadRequest, "badForm")
}
