-- migrate:up

-- When a subject and those below it must ask a person; read with the budgets under the same epoch.
CREATE TABLE approval_policies (
    org text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    content text NOT NULL,
    revision bigint NOT NULL,
    updated_us bigint NOT NULL,
    updated_by text NOT NULL,
    changed_epoch bigint NOT NULL,
    PRIMARY KEY (org, subject)
);
COMMENT ON COLUMN approval_policies.content IS 'JSON: above and held by currency, times by urgency; an empty one asks nothing';
COMMENT ON COLUMN approval_policies.changed_epoch IS 'of org_policy, at the last change: a replica reads what is newer';
CREATE INDEX approval_policies_changed ON approval_policies (org, changed_epoch);

-- What a person decides. The row is the truth: a workflow only moves it.
CREATE TABLE approvals (
    org text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    kind bigint NOT NULL CHECK (kind BETWEEN 1 AND 3),
    state bigint NOT NULL CHECK (state BETWEEN 1 AND 5),
    payload_hash bytea NOT NULL,
    justification text NOT NULL,
    urgency bigint NOT NULL,
    requested_by text NOT NULL,
    created_us bigint NOT NULL,
    expires_us bigint NOT NULL,
    remind_us bigint NOT NULL,
    escalate_us bigint NOT NULL,
    operation text NOT NULL DEFAULT '',
    provider text NOT NULL DEFAULT '',
    model text NOT NULL DEFAULT '',
    currency text NOT NULL DEFAULT '',
    amount bigint NOT NULL,
    live_us bigint NOT NULL DEFAULT 0,
    target text COLLATE "C" NOT NULL DEFAULT '',
    extra_count bigint NOT NULL DEFAULT 0,
    until_us bigint NOT NULL DEFAULT 0,
    hold_us bigint NOT NULL DEFAULT 0,
    renew_us bigint NOT NULL DEFAULT 0,
    trouble text NOT NULL DEFAULT '',
    told text COLLATE "C" NOT NULL DEFAULT '',
    reminders bigint NOT NULL DEFAULT 0,
    escalations bigint NOT NULL DEFAULT 0,
    decided_by text NOT NULL DEFAULT '',
    decided_us bigint NOT NULL DEFAULT 0,
    decide_id text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    outcome text NOT NULL DEFAULT '',
    next_us bigint,
    PRIMARY KEY (org, id)
);
COMMENT ON COLUMN approvals.id IS 'the id of the request, and of the reservation that holds';
COMMENT ON COLUMN approvals.kind IS '1 an operation, 2 a raise of a budget, 3 recharges beyond the caps';
COMMENT ON COLUMN approvals.state IS '1 pending, 2 approved, 3 denied, 4 expired, 5 canceled';
COMMENT ON COLUMN approvals.live_us IS 'how long the hold lives once it is approved';
COMMENT ON COLUMN approvals.target IS 'the budget or the wallet that it is about';
COMMENT ON COLUMN approvals.hold_us IS 'until when the hold lives; 0: it holds nothing';
COMMENT ON COLUMN approvals.renew_us IS 'when the hold is to be placed anew';
COMMENT ON COLUMN approvals.trouble IS 'why the hold could not be placed anew the last time';
COMMENT ON COLUMN approvals.told IS 'the subject whose subscribers were told last';
COMMENT ON COLUMN approvals.next_us IS 'when its workflow is to look next; null: it has nothing to do';
CREATE INDEX approvals_waiting ON approvals (org, subject) WHERE state = 1;
CREATE INDEX approvals_due ON approvals (expires_us) WHERE state = 1;
CREATE INDEX approvals_held ON approvals (hold_us) WHERE state = 1 AND kind = 1;
CREATE INDEX approvals_next ON approvals (next_us) WHERE next_us IS NOT NULL;
CREATE INDEX approvals_by_end ON approvals (org, expires_us, id);
CREATE INDEX approvals_old ON approvals (decided_us) WHERE state <> 1;

-- 1: it waits for an approval; 2: it was asked for as one, and that is decided. Written beside, never by a usual spend.
ALTER TABLE reservations ADD COLUMN approval bigint NOT NULL DEFAULT 0;

GRANT SELECT, INSERT, UPDATE ON approval_policies TO budget_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON approvals TO budget_service;

-- migrate:down
-- squawk-ignore ban-drop-column
ALTER TABLE reservations DROP COLUMN approval;
-- squawk-ignore ban-drop-table
DROP TABLE approvals, approval_policies;
