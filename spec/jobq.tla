-------------------------------- MODULE jobq --------------------------------
(***************************************************************************)
(* The protocol of docs/protocol.md on PostgreSQL at READ COMMITTED.       *)
(*                                                                         *)
(* One action is one SQL statement: it reads what is committed when it     *)
(* runs, and it waits (is not enabled) while a row it must lock is locked. *)
(* Locks and uncommitted rows last until their transaction ends, which is  *)
(* an action of its own. Where a transaction is one statement, or the      *)
(* statement is its last write, statement and COMMIT are one action.       *)
(*                                                                         *)
(* A worker that crashes takes its transactions along. One that is frozen, *)
(* cut off or slow is one whose actions do not happen, for as long as you  *)
(* like. docs/formal-model.md tells which statement each action stands for.*)
(***************************************************************************)
EXTENDS Integers, FiniteSets, TLC

CONSTANTS
    Jobs, Workers,
    Reconcilers,    \* the workers that reconcile
    Steady,         \* the workers that do not stop for ever: fairness is theirs
    MaxAttempts,
    MaxReleases,    \* how often a job may be given back unstarted
    MaxFaults,      \* how many faults there are; None: any number
    Cancels,        \* whether somebody cancels jobs
    None

(* The guards. FALSE takes one away; docs/formal-model.md has what follows. *)
CONSTANTS
    OneTransaction,      \* the effect is in the transaction of its record
    LeaseJoin,           \* the record is joined to the live lease
    LeaseLock,           \* ... whose row stays locked until COMMIT
    UniqueRecord,        \* one record per job, by its key
    ConfirmRecord,       \* before COMMIT: is the record this transaction's?
    SettleUnderLock,     \* after a lost answer: lock the lease, then look
    FencedFail,          \* a report of failure names the token
    RecordUnderLock,     \* recovery looks for the record after it has the lock
    SkipLocked,          \* recovery passes by leases that are locked
    FateThroughRecord,   \* dead and cancelled are records too
    CancelHoldsPlace,    \* cancel takes hold of the job's place first
    ReleaseLooksForFate, \* a job with a fate is not given back
    CountAtClaim,        \* an attempt is counted when it is claimed
    TokensGrow,          \* a claim issues a new token
    Reconciles           \* there is a reconciler at all

VARIABLES
    scheduled, ready,   \* job -> [token, attempts], or None
    lease,              \* job -> [token, attempt, expired], or None
    records,            \* job -> the commit records: [outcome, token]
    elsewhere,          \* job -> fates that are no record (without FateThroughRecord)
    ledger,             \* job -> the tokens of the attempts whose effect is committed
    txs,                \* effect transactions: [job, token, state]
    hand,               \* worker -> its attempt: [pc, job, token]
    reports,            \* failures to be told: [job, token, pc, sure]
    recon,              \* worker -> its pass of the reconciler: [pc, jobs, seen]
    client,             \* who cancels: [pc, job, token, place]
    plain,              \* the jobs whose handler has no effect in this database
    issued,             \* job -> the newest token, for I8
    runs,               \* job -> how many handlers were started, for I7
    zombieWon,          \* an attempt without its lease changed something, for I4
    faults

jobRows  == <<scheduled, ready, lease>>
facts    == <<records, elsewhere, ledger>>
sessions == <<txs, hand, reports, recon, client>>
ghosts   == <<issued, runs, zombieWon>>
vars     == <<jobRows, facts, sessions, plain, ghosts, faults>>

Idle      == [pc |-> "idle", job |-> None, token |-> 0]
NoPass    == [pc |-> "idle", jobs |-> {}, seen |-> {}]
NoClient  == [pc |-> "idle", job |-> None, token |-> 0, place |-> "none"]

Committed(t) == [outcome |-> "committed", token |-> t]
Dead(t)      == [outcome |-> "dead", token |-> t]
Cancelled(t) == [outcome |-> "cancelled", token |-> t]
HasRecord(j) == records[j] # {}
Fates(j)     == {r.outcome : r \in records[j]} \cup elsewhere[j]

Init ==
    /\ scheduled = [j \in Jobs |-> None]
    /\ ready = [j \in Jobs |-> [token |-> 0, attempts |-> 0]]
    /\ lease = [j \in Jobs |-> None]
    /\ records = [j \in Jobs |-> {}]
    /\ elsewhere = [j \in Jobs |-> {}]
    /\ ledger = [j \in Jobs |-> {}]
    /\ txs = {}
    /\ hand = [w \in Workers |-> Idle]
    /\ reports = {}
    /\ recon = [w \in Reconcilers |-> NoPass]
    /\ client = NoClient
    /\ plain \in SUBSET Jobs
    /\ issued = [j \in Jobs |-> 0]
    /\ runs = [j \in Jobs |-> 0]
    /\ zombieWon = FALSE
    /\ faults = 0

-----------------------------------------------------------------------------
(* Locks, as the sessions' places in their transactions imply them. *)

Holds(j, t) == lease[j] # None /\ lease[j].token = t
Mine(w) == Holds(hand[w].job, hand[w].token)

\* FOR KEY SHARE: an effect between its record and its end; a cancel of a leased job.
KeyShared(j) ==
    \/ LeaseJoin /\ LeaseLock /\ \E t \in txs : t.job = j
    \/ client.pc \in {"held", "inserted"} /\ client.job = j /\ client.place = "lease"

\* FOR UPDATE: whoever is about to end the lease, or to settle a commit.
ForUpdate(j) ==
    \/ \E w \in Reconcilers : recon[w].pc \in {"locked", "judged"} /\ j \in recon[w].jobs
    \/ \E r \in reports : r.job = j /\ r.pc \in {"locked", "none", "some"}
    \/ \E w \in Workers : hand[w].job = j /\ Mine(w)
                          /\ (hand[w].pc = "releasing" \/ (SettleUnderLock /\ hand[w].pc = "settling"))

Free(j) == ~KeyShared(j) /\ ~ForUpdate(j)

\* A key that is being inserted: the next to insert it waits for the first one's end.
RecordPending(j) ==
    UniqueRecord /\ \/ \E t \in txs : t.job = j
                    \/ client.pc = "inserted" /\ client.job = j

Taken(j, place) == client.pc \in {"held", "inserted"} /\ client.job = j /\ client.place = place

-----------------------------------------------------------------------------
(* A job's way to an attempt. *)

Promote(j) ==
    /\ scheduled[j] # None /\ ~Taken(j, "scheduled")
    /\ ready' = [ready EXCEPT ![j] = scheduled[j]]
    /\ scheduled' = [scheduled EXCEPT ![j] = None]
    /\ UNCHANGED <<lease, facts, sessions, plain, ghosts, faults>>

Claim(w, j) ==
    LET token == IF TokensGrow \/ ready[j].token = 0 THEN ready[j].token + 1 ELSE ready[j].token
        attempt == IF CountAtClaim THEN ready[j].attempts + 1 ELSE ready[j].attempts
    IN
    /\ hand[w].pc = "idle" /\ ready[j] # None /\ ~Taken(j, "ready")
    /\ ready' = [ready EXCEPT ![j] = None]
    /\ lease' = [lease EXCEPT ![j] = [token |-> token, attempt |-> attempt, expired |-> FALSE]]
    /\ hand' = [hand EXCEPT ![w] = [pc |-> "claimed", job |-> j, token |-> token]]
    /\ issued' = [issued EXCEPT ![j] = token]
    /\ UNCHANGED <<scheduled, facts, txs, reports, recon, client, plain, runs, zombieWon, faults>>

To(w, pc) == hand' = [hand EXCEPT ![w].pc = pc]
LayDown(w) == hand' = [hand EXCEPT ![w] = Idle]
Report(w, sure) ==
    reports' = reports \cup
        {[job |-> hand[w].job, token |-> hand[w].token, pc |-> "pending", sure |-> sure]}

Start(w) ==
    /\ hand[w].pc = "claimed"
    /\ To(w, "running")
    /\ runs' = [runs EXCEPT ![hand[w].job] = @ + 1]
    /\ UNCHANGED <<jobRows, facts, txs, reports, recon, client, plain, issued, zombieWon, faults>>

\* It waited so long that its lease may be gone: left to the reconciler.
Drop(w) ==
    /\ hand[w].pc = "claimed" /\ LayDown(w)
    /\ UNCHANGED <<jobRows, facts, txs, reports, recon, client, plain, ghosts, faults>>

ReleaseLock(w) ==
    LET j == hand[w].job IN
    /\ hand[w].pc = "claimed"
    /\ IF Mine(w)
       THEN issued[j] - lease[j].attempt < MaxReleases /\ Free(j) /\ To(w, "releasing")
       ELSE LayDown(w)
    /\ UNCHANGED <<jobRows, facts, txs, reports, recon, client, plain, ghosts, faults>>

Release(w) ==
    LET j == hand[w].job IN
    /\ hand[w].pc = "releasing"
    /\ lease' = [lease EXCEPT ![j] = None]
    /\ IF ReleaseLooksForFate /\ HasRecord(j)
       THEN ready' = ready
       ELSE ready' = [ready EXCEPT ![j] = [token |-> lease[j].token,
                                           attempts |-> lease[j].attempt - 1]]
    /\ LayDown(w)
    /\ UNCHANGED <<scheduled, facts, txs, reports, recon, client, plain, ghosts, faults>>

-----------------------------------------------------------------------------
(* The commit boundary. *)

Tx(w, state) == [job |-> hand[w].job, token |-> hand[w].token, state |-> state]
HasTx(w) == Tx(w, "open") \in txs

RecordCommitted(w) ==
    LET j == hand[w].job
        finds == ~LeaseJoin \/ Mine(w)
    IN
    /\ hand[w].pc = "running" /\ j \notin plain
    /\ (LeaseJoin /\ LeaseLock /\ Mine(w)) => ~ForUpdate(j)
    /\ finds => ~RecordPending(j)
    /\ IF finds /\ (~UniqueRecord \/ ~HasRecord(j))
       THEN txs' = txs \cup {Tx(w, "open")} /\ To(w, "recorded")
       ELSE txs' = txs /\ To(w, "missed")
    /\ UNCHANGED <<jobRows, facts, reports, recon, client, plain, ghosts, faults>>

\* LeaseLost, or AlreadyCommitted; then the worker that was refused finalizes for the winner.
Refused(w) ==
    /\ hand[w].pc = "missed"
    /\ IF HasRecord(hand[w].job) THEN To(w, "finalizing") ELSE LayDown(w)
    /\ UNCHANGED <<jobRows, facts, txs, reports, recon, client, plain, ghosts, faults>>

Effect(w) ==
    /\ hand[w].pc = "recorded" /\ HasTx(w)
    /\ To(w, "applied")
    /\ ledger' = IF OneTransaction THEN ledger
                 ELSE [ledger EXCEPT ![hand[w].job] = @ \cup {hand[w].token}]
    /\ UNCHANGED <<jobRows, records, elsewhere, txs, reports, recon, client, plain, ghosts, faults>>

\* A statement of the handler's fails and the handler swallows it: nothing is left of the
\* transaction, and COMMIT would be answered without an error.
Spoil(w) ==
    /\ hand[w].pc \in {"recorded", "applied"} /\ HasTx(w)
    /\ txs' = txs \ {Tx(w, "open")}
    /\ To(w, "spoiled")
    /\ UNCHANGED <<jobRows, facts, reports, recon, client, plain, ghosts, faults>>

Confirm(w) ==
    /\ hand[w].pc = "applied" /\ HasTx(w)
    /\ To(w, "confirmed")
    /\ UNCHANGED <<jobRows, facts, txs, reports, recon, client, plain, ghosts, faults>>

\* Without the question the worker takes the answer to COMMIT for what it seems to be.
ConfirmSpoiled(w) ==
    /\ hand[w].pc = "spoiled"
    /\ IF ConfirmRecord THEN Report(w, TRUE) /\ LayDown(w)
       ELSE reports' = reports /\ To(w, "committed")
    /\ UNCHANGED <<jobRows, facts, txs, recon, client, plain, ghosts, faults>>

\* The handler raises, or finds its connection gone.
Raise(w) ==
    /\ hand[w].pc \in {"running", "recorded", "applied"}
    /\ txs' = txs \ {Tx(w, "open")}
    /\ Report(w, TRUE) /\ LayDown(w)
    /\ UNCHANGED <<jobRows, facts, recon, client, plain, ghosts, faults>>

Apply(t) ==
    /\ records' = [records EXCEPT ![t.job] = @ \cup {Committed(t.token)}]
    /\ ledger' = [ledger EXCEPT ![t.job] = @ \cup {t.token}]
    /\ zombieWon' = (zombieWon \/ ~Holds(t.job, t.token))
    /\ txs' = txs \ {t}
    /\ UNCHANGED elsewhere

Commit(w) ==
    /\ hand[w].pc = "confirmed" /\ HasTx(w)
    /\ Apply(Tx(w, "open")) /\ To(w, "committed")
    /\ UNCHANGED <<jobRows, reports, recon, client, plain, issued, runs, faults>>

\* COMMIT is sent and its answer lost: it took place, will take place, or never does.
LoseAnswer(w) ==
    /\ hand[w].pc = "confirmed"
    /\ txs' = IF HasTx(w) THEN (txs \ {Tx(w, "open")}) \cup {Tx(w, "sent")} ELSE txs
    /\ To(w, "asking")
    /\ UNCHANGED <<jobRows, facts, reports, recon, client, plain, ghosts, faults>>

ServerCommits(t) ==
    /\ t.state = "sent" /\ Apply(t)
    /\ UNCHANGED <<jobRows, hand, reports, recon, client, plain, issued, runs, faults>>

\* Its client is gone, or silent beyond idle_in_transaction_session_timeout.
ServerAborts(t) ==
    /\ txs' = txs \ {t}
    /\ UNCHANGED <<jobRows, facts, hand, reports, recon, client, plain, ghosts, faults>>

SettleLock(w) ==
    /\ hand[w].pc = "asking"
    /\ (SettleUnderLock /\ Mine(w)) => Free(hand[w].job)
    /\ To(w, "settling")
    /\ UNCHANGED <<jobRows, facts, txs, reports, recon, client, plain, ghosts, faults>>

SettleLook(w) ==
    /\ hand[w].pc = "settling"
    /\ IF Committed(hand[w].token) \in records[hand[w].job]
       THEN To(w, "committed") /\ reports' = reports
       ELSE Report(w, TRUE) /\ LayDown(w)
    /\ UNCHANGED <<jobRows, facts, txs, recon, client, plain, ghosts, faults>>

\* The database cannot be asked: EffectOutcomeUnknown, told as a failure.
SettleGiveUp(w) ==
    /\ hand[w].pc = "asking" /\ Report(w, FALSE) /\ LayDown(w)
    /\ UNCHANGED <<jobRows, facts, txs, recon, client, plain, ghosts, faults>>

\* A handler with no effect here returned: record and finalize in one statement.
Complete(w) ==
    LET j == hand[w].job IN
    /\ hand[w].pc = "running" /\ j \in plain
    /\ IF Mine(w)
       THEN /\ Free(j)
            /\ lease' = [lease EXCEPT ![j] = None]
            /\ records' = IF UniqueRecord /\ HasRecord(j) THEN records
                          ELSE [records EXCEPT ![j] = @ \cup {Committed(hand[w].token)}]
            /\ LayDown(w)
       ELSE UNCHANGED <<lease, records>> /\ To(w, "missed")
    /\ UNCHANGED <<scheduled, ready, elsewhere, ledger, txs, reports, recon, client, plain, ghosts,
                   faults>>

Finalize(w) ==
    LET j == hand[w].job IN
    /\ hand[w].pc \in {"committed", "finalizing"}
    /\ IF lease[j] # None /\ HasRecord(j)
       THEN Free(j) /\ lease' = [lease EXCEPT ![j] = None]
       ELSE lease' = lease
    /\ LayDown(w)
    /\ UNCHANGED <<scheduled, ready, facts, txs, reports, recon, client, plain, ghosts, faults>>

Beating == {"claimed", "running", "recorded", "applied", "spoiled", "confirmed", "asking"}

\* A worker that will stop for ever is taken to have no heart: see Fairness.
Heartbeat(w) ==
    LET j == hand[w].job IN
    /\ w \in Steady /\ hand[w].pc \in Beating /\ Mine(w) /\ lease[j].expired /\ ~ForUpdate(j)
    /\ lease' = [lease EXCEPT ![j].expired = FALSE]
    /\ UNCHANGED <<scheduled, ready, facts, sessions, plain, ghosts, faults>>

\* ... and tells the handler that its lease is lost or its job has a fate.
HeartbeatTells(w) ==
    /\ hand[w].pc \in {"claimed", "running", "recorded", "applied"}
    /\ ~Mine(w) \/ HasRecord(hand[w].job)
    /\ txs' = txs \ {Tx(w, "open")}
    /\ IF HasRecord(hand[w].job) THEN To(w, "finalizing") ELSE LayDown(w)
    /\ UNCHANGED <<jobRows, facts, reports, recon, client, plain, ghosts, faults>>

\* A worker that stops reports for a thread that goes on.
Interrupt(w) ==
    /\ hand[w].pc \in {"running", "recorded", "applied", "confirmed"}
    /\ Report(w, FALSE)
    /\ UNCHANGED <<jobRows, facts, txs, hand, recon, client, plain, ghosts, faults>>

-----------------------------------------------------------------------------
(* An attempt is ended: by a report of its failure, or by recovery. *)

\* What END_ATTEMPTS leaves of the jobs of `ended`; `count`: the attempt counts only now.
EndAll(ended, seen, count) ==
    LET spent(j) == lease[j].attempt + (IF count /\ ~CountAtClaim THEN 1 ELSE 0)
        buried == {j \in ended \ seen : spent(j) >= MaxAttempts}
        retried == (ended \ seen) \ buried
    IN
    /\ \A j \in buried : ~RecordPending(j)
    /\ IF UniqueRecord /\ \E j \in buried : HasRecord(j)
       THEN UNCHANGED <<jobRows, records>>  \* a unique violation, and the transaction is over
       ELSE /\ lease' = [j \in Jobs |-> IF j \in ended THEN None ELSE lease[j]]
            /\ scheduled' = [j \in Jobs |->
                    IF j \in retried THEN [token |-> lease[j].token, attempts |-> spent(j)]
                    ELSE scheduled[j]]
            /\ records' = [j \in Jobs |->
                    IF j \in buried THEN records[j] \cup {Dead(lease[j].token)} ELSE records[j]]
            /\ UNCHANGED ready

FailLock(r) ==
    /\ r.pc = "pending"
    /\ IF FencedFail THEN Holds(r.job, r.token) ELSE lease[r.job] # None
    /\ Free(r.job)  \* else it is busy: told again later
    /\ reports' = (reports \ {r}) \cup {[r EXCEPT !.pc = "locked"]}
    /\ UNCHANGED <<jobRows, facts, txs, hand, recon, client, plain, ghosts, faults>>

FailLook(r) ==
    /\ r.pc = "locked"
    /\ reports' = (reports \ {r})
            \cup {[r EXCEPT !.pc = IF HasRecord(r.job) THEN "some" ELSE "none"]}
    /\ UNCHANGED <<jobRows, facts, txs, hand, recon, client, plain, ghosts, faults>>

FailEnd(r) ==
    /\ r.pc \in {"none", "some"}
    /\ EndAll({r.job}, IF r.pc = "some" THEN {r.job} ELSE {}, TRUE)
    /\ zombieWon' = (zombieWon \/ lease[r.job].token # r.token)
    /\ reports' = reports \ {r}
    /\ UNCHANGED <<elsewhere, ledger, txs, hand, recon, client, plain, issued, runs, faults>>

\* No such lease: refused. When there is a record, the same transaction finalizes.
FailRefused(r) ==
    LET j == r.job IN
    /\ r.pc = "pending" /\ ~Holds(j, r.token)
    /\ IF lease[j] # None /\ HasRecord(j)
       THEN Free(j) /\ lease' = [lease EXCEPT ![j] = None]
       ELSE lease' = lease
    /\ reports' = reports \ {r}
    /\ UNCHANGED <<scheduled, ready, facts, txs, hand, recon, client, plain, ghosts, faults>>

Expire(j) ==
    /\ lease[j] # None /\ ~lease[j].expired
    /\ lease' = [lease EXCEPT ![j].expired = TRUE]
    /\ UNCHANGED <<scheduled, ready, facts, sessions, plain, ghosts, faults>>

Expired == {j \in Jobs : lease[j] # None /\ lease[j].expired}

CanReconcile(w) ==
    /\ Reconciles /\ recon[w].pc = (IF RecordUnderLock THEN "idle" ELSE "snapped")

\* The jobs whose leases one LOCK_EXPIRED of `w` may return.
Lockable(w) ==
    LET wanted == IF RecordUnderLock THEN Expired ELSE Expired \cap recon[w].jobs
        free == {j \in wanted : Free(j)}
    IN IF SkipLocked THEN (SUBSET free) \ {{}}
       ELSE IF free = wanted THEN {wanted} \ {{}} ELSE {}  \* it waits for every row

ReconcileLock(w) ==
    /\ CanReconcile(w)
    /\ \E locked \in Lockable(w) :
        recon' = [recon EXCEPT ![w] =
                    [pc |-> IF RecordUnderLock THEN "locked" ELSE "judged",
                     jobs |-> locked, seen |-> {}]]
    /\ UNCHANGED <<jobRows, facts, txs, hand, reports, client, plain, ghosts, faults>>

ReconcileLook(w) ==
    /\ recon[w].pc = "locked"
    /\ recon' = [recon EXCEPT ![w].pc = "judged",
                              ![w].seen = {j \in recon[w].jobs : HasRecord(j)}]
    /\ UNCHANGED <<jobRows, facts, txs, hand, reports, client, plain, ghosts, faults>>

\* Without RecordUnderLock: the NOT EXISTS of the locking statement, by its snapshot.
ReconcileSnapshot(w) ==
    /\ ~RecordUnderLock /\ Reconciles /\ recon[w].pc = "idle"
    /\ recon' = [recon EXCEPT ![w] =
                    [pc |-> "snapped", jobs |-> {j \in Expired : ~HasRecord(j)}, seen |-> {}]]
    /\ UNCHANGED <<jobRows, facts, txs, hand, reports, client, plain, ghosts, faults>>

ReconcileEnd(w) ==
    /\ recon[w].pc = "judged"
    /\ EndAll(recon[w].jobs, recon[w].seen, FALSE)
    /\ recon' = [recon EXCEPT ![w] = NoPass]
    /\ UNCHANGED <<elsewhere, ledger, txs, hand, reports, client, plain, ghosts, faults>>

-----------------------------------------------------------------------------
(* Cancel: look for a fate, take hold of the job's place, record the fate. *)

CancelLook(j) ==
    /\ Cancels /\ client.pc = "idle" /\ ~HasRecord(j)
    /\ client' = IF CancelHoldsPlace
                 THEN [pc |-> "share", job |-> j, token |-> 0, place |-> "none"]
                 ELSE [pc |-> "held", job |-> j, token |-> issued[j], place |-> "none"]
    /\ UNCHANGED <<jobRows, facts, txs, hand, reports, recon, plain, ghosts, faults>>

\* Three statements, in this order; the row that one of them finds is held until the end.
CancelHold(at, row, place, next) ==
    /\ client.pc = at
    /\ client' = IF row # None
                 THEN [client EXCEPT !.pc = "held", !.token = row.token, !.place = place]
                 ELSE IF next = "idle" THEN NoClient  \* caught moving: from the beginning
                 ELSE [client EXCEPT !.pc = next]
    /\ UNCHANGED <<jobRows, facts, txs, hand, reports, recon, plain, ghosts, faults>>

CancelShare ==
    /\ client.pc = "share"
    /\ lease[client.job] # None => ~ForUpdate(client.job)
    /\ CancelHold("share", lease[client.job], "lease", "unschedule")
CancelUnschedule ==
    client.pc = "unschedule" /\ CancelHold("unschedule", scheduled[client.job], "scheduled", "unready")
CancelUnready ==
    client.pc = "unready" /\ CancelHold("unready", ready[client.job], "ready", "idle")

CancelRecord ==
    /\ client.pc = "held"
    /\ ~RecordPending(client.job)
    /\ client' = IF UniqueRecord /\ HasRecord(client.job) THEN NoClient
                 ELSE [client EXCEPT !.pc = "inserted"]
    /\ UNCHANGED <<jobRows, facts, txs, hand, reports, recon, plain, ghosts, faults>>

CancelCommit ==
    LET j == client.job IN
    /\ client.pc = "inserted"
    /\ records' = [records EXCEPT ![j] = @ \cup {Cancelled(client.token)}]
    /\ scheduled' = IF client.place = "scheduled" THEN [scheduled EXCEPT ![j] = None] ELSE scheduled
    /\ ready' = IF client.place = "ready" THEN [ready EXCEPT ![j] = None] ELSE ready
    /\ client' = NoClient
    /\ UNCHANGED <<lease, elsewhere, ledger, txs, hand, reports, recon, plain, ghosts, faults>>

\* Without FateThroughRecord: a table of its own, written after a look.
DeclareElsewhere(j) ==
    /\ ~FateThroughRecord /\ Fates(j) = {}
    /\ elsewhere' = [elsewhere EXCEPT ![j] = {"cancelled"}]
    /\ UNCHANGED <<jobRows, records, ledger, sessions, plain, ghosts, faults>>

-----------------------------------------------------------------------------
(* Faults. *)

Fault ==
    IF MaxFaults = None THEN faults' = faults
    ELSE faults < MaxFaults /\ faults' = faults + 1

Crash(w) ==
    /\ hand[w].pc # "idle" \/ (w \in Reconcilers /\ recon[w].pc # "idle")
    /\ Fault
    /\ txs' = IF HasTx(w) THEN (txs \ {Tx(w, "open")}) \cup {Tx(w, "orphan")} ELSE txs
    /\ LayDown(w)
    /\ recon' = [v \in Reconcilers |-> IF v = w THEN NoPass ELSE recon[v]]
    /\ UNCHANGED <<jobRows, facts, reports, client, plain, ghosts>>

\* The connection breaks at the first statement: the attempt takes the next one from the pool.
BeginAgain(w) ==
    /\ hand[w].pc = "recorded" /\ HasTx(w) /\ Fault
    /\ txs' = (txs \ {Tx(w, "open")}) \cup {Tx(w, "orphan")}
    /\ To(w, "running")
    /\ UNCHANGED <<jobRows, facts, reports, recon, client, plain, ghosts>>

\* The worker dies before it told, or the transaction that tells is rolled back.
LoseReport(r) ==
    /\ Fault
    /\ reports' = reports \ {r}
    /\ UNCHANGED <<jobRows, facts, txs, hand, recon, client, plain, ghosts>>
RepeatReport(r) ==
    /\ r.pc # "pending" /\ Fault
    /\ reports' = (reports \ {r}) \cup {[r EXCEPT !.pc = "pending"]}
    /\ UNCHANGED <<jobRows, facts, txs, hand, recon, client, plain, ghosts>>

ClientGone ==
    /\ client.pc # "idle" /\ Fault
    /\ client' = NoClient
    /\ UNCHANGED <<jobRows, facts, txs, hand, reports, recon, plain, ghosts>>

\* A frozen worker's other transactions are ended by the server too; when the worker goes on, it
\* finds its connection dead.
IdleTimeout(w) ==
    /\ w \notin Steady
    /\ \/ /\ w \in Reconcilers /\ recon[w].pc # "idle"
          /\ recon' = [recon EXCEPT ![w] = NoPass]
          /\ UNCHANGED <<hand, reports>>
       \/ /\ hand[w].pc = "releasing" /\ LayDown(w)
          /\ UNCHANGED <<recon, reports>>
       \/ /\ hand[w].pc = "settling" /\ Report(w, FALSE) /\ LayDown(w)
          /\ UNCHANGED recon
    /\ UNCHANGED <<jobRows, facts, txs, client, plain, ghosts, faults>>

-----------------------------------------------------------------------------

HandlerStep(w) ==
    \/ Start(w) \/ RecordCommitted(w) \/ Refused(w) \/ Effect(w) \/ Confirm(w)
    \/ ConfirmSpoiled(w) \/ Raise(w) \/ Commit(w) \/ LoseAnswer(w)
    \/ SettleLock(w) \/ SettleLook(w) \/ Complete(w) \/ Finalize(w) \/ Release(w)
HandlerMishap(w) ==
    \/ Drop(w) \/ ReleaseLock(w) \/ Spoil(w) \/ SettleGiveUp(w)
    \/ Interrupt(w) \/ HeartbeatTells(w)
ReportStep(r) == FailLock(r) \/ FailLook(r) \/ FailEnd(r) \/ FailRefused(r)
ReconcileStep(w) == ReconcileSnapshot(w) \/ ReconcileLock(w) \/ ReconcileLook(w) \/ ReconcileEnd(w)
CancelStep ==
    CancelShare \/ CancelUnschedule \/ CancelUnready \/ CancelRecord \/ CancelCommit

Next ==
    \/ \E j \in Jobs : Promote(j) \/ Expire(j) \/ CancelLook(j) \/ DeclareElsewhere(j)
    \/ \E w \in Workers, j \in Jobs : Claim(w, j)
    \/ \E w \in Workers : HandlerStep(w) \/ HandlerMishap(w) \/ Heartbeat(w) \/ Crash(w)
                          \/ BeginAgain(w) \/ IdleTimeout(w)
    \/ \E w \in Reconcilers : ReconcileStep(w)
    \/ \E r \in reports : ReportStep(r) \/ LoseReport(r) \/ RepeatReport(r)
    \/ \E t \in txs : ServerCommits(t) \/ ServerAborts(t)
    \/ CancelStep \/ ClientGone

Spec == Init /\ [][Next]_vars

(* What must go on for every job to end: time, promotion, the server's own    *)
(* housekeeping, and those workers that do not stop for ever. Of the others   *)
(* nothing is asked; one that hangs with its heart beating keeps its job, and *)
(* is left out (Heartbeat).                                                   *)
Fairness ==
    /\ \A j \in Jobs : WF_vars(Promote(j)) /\ WF_vars(Expire(j))
    /\ \A w \in Steady : /\ \A j \in Jobs : WF_vars(Claim(w, j))
                         /\ WF_vars(HandlerStep(w))
    /\ \A w \in Steady \cap Reconcilers : WF_vars(ReconcileStep(w)) /\ SF_vars(ReconcileLock(w))
    /\ \A w \in Workers \ Steady : WF_vars(IdleTimeout(w))
    /\ \A j \in Jobs, t \in 1..(MaxAttempts + MaxReleases) :
            WF_vars(\E r \in reports : r.job = j /\ r.token = t /\ ReportStep(r))
    /\ WF_vars(\E t \in txs : ServerAborts(t))
    /\ WF_vars(CancelStep)

FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
(* The invariants, by the numbers of docs/protocol.md. *)

I1 == \A j \in Jobs : Cardinality(records[j]) <= 1

\* The effect is committed if and only if the record is, and by the same attempt.
I2 == \A j \in Jobs \ plain : ledger[j] = {r.token : r \in {s \in records[j] : s.outcome = "committed"}}

Places(j) ==
    {p \in {"scheduled", "ready", "leases", "records"} :
        \/ p = "scheduled" /\ scheduled[j] # None
        \/ p = "ready" /\ ready[j] # None
        \/ p = "leases" /\ lease[j] # None /\ ~HasRecord(j)
        \/ p = "records" /\ HasRecord(j)}

\* Nobody takes a job for committed, or for not committed, that is not.
I3 == /\ \A w \in Workers :
            hand[w].pc = "committed" => Committed(hand[w].token) \in records[hand[w].job]
      /\ \A r \in reports : r.sure => Committed(r.token) \notin records[r.job]
      /\ \A j \in Jobs : Places(j) # {}

I4 == ~zombieWon

I5 == \A j \in Jobs : Cardinality(Places(j)) = 1

I7 == \A j \in Jobs : runs[j] <= MaxAttempts

I8 == [][\A j \in Jobs : (lease[j] = None /\ lease'[j] # None) => lease'[j].token > issued[j]]_vars

I9 == [][\A j \in Jobs : Fates(j) # {} => Fates(j)' = Fates(j)]_vars

\* I6, as far as one state can show it: no lease that is free to be recovered waits for another.
Unhindered ==
    \A w \in Reconcilers :
        (CanReconcile(w) /\ \E j \in Expired : Free(j)) => Lockable(w) # {}

\* I6: every job ends, and COMMITTED becomes DONE.
I6 == \A j \in Jobs : <>[](HasRecord(j) /\ lease[j] = None)
Heals == \A j \in Jobs : HasRecord(j) ~> (lease[j] = None)

Symmetry == Permutations(Workers) \cup Permutations(Jobs)
=============================================================================
