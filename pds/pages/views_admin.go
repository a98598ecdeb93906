package pages

import "time"

// AdminSignIn asks for an operator's name and password.
type AdminSignIn struct{ Name string }

// AdminCode asks for an operator's second factor, or sets it up.
type AdminCode struct {
	Name, Ticket string
	Setup        *Setup // nil: it is set up
}

// AdminRecovery shows an operator's recovery codes, this once.
type AdminRecovery struct{ Codes []string }

// AdminPassword asks for an operator's new password.
type AdminPassword struct{ Operator string }

// Admin is the operators' first page.
type Admin struct {
	Operator, Role string
	May, Chief     bool // moderator's acts, administrator's acts
	Accounts       int64
	Inactive       int64
	Reports        int64
	Seq            int64
	BlobBytes      int64
	Checks         []Check // nothing before it was asked for
	Relays         []Relay
}

// Check is one thing that the server looked at as others see it. Key is a phrase's.
type Check struct {
	Key      string
	OK, Skip bool
	Detail   string
}

// Relay is what one relay knows of this server.
type Relay struct {
	URL      string
	Asked    time.Time // zero: never
	Answer   string    // empty: it was taken
	Ours     int64
	Known    bool
	Status   string
	Seq      int64
	Accounts int64
	Error    string
	Behind   int64
	Ahead    bool
}

// AdminAccounts lists accounts.
type AdminAccounts struct {
	Query    string
	Accounts []AdminRow
	Next     string
}

// AdminRow is one of them.
type AdminRow struct {
	Handle, DID, Status string
	Created             time.Time
	Path                string
}

// AdminAccount is one account as operators see it.
type AdminAccount struct {
	Handle, DID, Status string
	Created             time.Time
	Path                string
	Email               string
	Confirmed, TwoStep  bool
	Records, Blobs      int64
	BlobBytes           int64
	Sessions            int64
	Rev                 string
	Ref                 string // of the takedown; empty: it stands
	May, Chief          bool
}

// AdminLog lists what operators did.
type AdminLog struct {
	Lines []LogLine
	Next  string
}

// LogLine is one act.
type LogLine struct {
	ID                    int64
	At                    time.Time
	Operator, Method, DID string
	Detail, Outcome       string
}

// AdminReports lists reports that nobody has dealt with.
type AdminReports struct {
	May     bool
	Reports []Report
}

// Report is one of them.
type Report struct {
	ID      int64
	Created time.Time
	From    string
	About   string
	URI     string
	Kind    string
	Reason  string
}

// AdminInvites lists invite codes.
type AdminInvites struct {
	May     bool
	Invites []Invite
	Next    string
}

// Invite is a code.
type Invite struct {
	Code, For string
	Left      int64
	Used      int
	Disabled  bool
	Created   time.Time
}

func (AdminSignIn) view() string   { return "adminsignin" }
func (AdminCode) view() string     { return "admincode" }
func (AdminRecovery) view() string { return "adminrecovery" }
func (AdminPassword) view() string { return "adminpassword" }
func (Admin) view() string         { return "admin" }
func (AdminAccounts) view() string { return "adminaccounts" }
func (AdminAccount) view() string  { return "adminaccount" }
func (AdminLog) view() string      { return "adminlog" }
func (AdminReports) view() string  { return "adminreports" }
func (AdminInvites) view() string  { return "admininvites" }
