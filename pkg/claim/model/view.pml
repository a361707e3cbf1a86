/* view.pml - clusters join and leave while claimants read, and read again.
 *
 * Clusters 0 and 1 share a budget, cluster 2 joins (or leaves). Two pods per cluster (cluster j:
 * bits 2j and 2j+1), all available; one claimant for each pod of REQ; grants stay.
 *
 * A cluster's view, the set of clusters that take part, stands in its own budget (dview) and is
 * shown in its store some time later, in each instance on its own (sview). A claimant goes by
 * its replica's copy of the view (v), as old as may be. The rules are those of the code:
 *
 *   R4  under maxUnavailable all views read in the deciding round must be v. The own one is read
 *       from the budget itself, by quorum, after the claim was written and beside the other reads.
 *   R3  the claims of a cluster that count are those of its first snapshot (S1). A claim tells the
 *       view of its claimant: one that came later under another view than v counts as well, for
 *       its claimant may not look at us.
 *   R5  short of pods, or where views differ: withdraw, or read again.
 *
 * configuration:
 *   MAXUNAV, U=n   maxUnavailable n: the claims in the clusters of v are what is unavailable
 *   MINAVAIL, M=n  minAvailable n: what is available in the clusters of v counts; no view is compared
 *   REQ=mask       pods that are asked for
 *   REREAD         claimants may read again, as often as they like
 *   INST           the stores of clusters 0 and 1 have two instances; a reader meets either
 *   LEAVE          cluster 2 takes part at first and leaves
 *   RETURN         cluster 2 takes part at first, leaves and comes back (with LEAVE)
 *   SUBSET         any other cluster may be left out of a round, as if it had no pods
 *   WITNESS=mask   none of these pods is ever granted: shows that a search sees grants
 * broken rules:
 *   NO_VIEWS       R4: views are not compared
 *   NO_OWN_VIEW    R4: only the others' views are compared
 *   OWN_STORE      R4: the own view is read in one instance of the own store
 *   OWN_EARLY      R4: the own view is read before the claim is written
 *   NO_CLAIM_VIEW  R3: later claims are ignored whatever view they were made under
 */
#define POP(x) (((x)&1)+(((x)>>1)&1)+(((x)>>2)&1)+(((x)>>3)&1)+(((x)>>4)&1)+(((x)>>5)&1))
#define CM(j) (3<<((j)*2))
#define CMV(v) ((((v)&1)*3)|((((v)>>1)&1)*12)|((((v)>>2)&1)*48))
#ifndef M
#define M 4
#endif
#ifndef U
#define U 1
#endif
#ifndef REQ
#define REQ 21
#endif
byte dview[3], sview[3];
#ifdef INST
byte sview2[2];
#endif
byte claims = 0, granted = 0;
#ifdef NO_CLAIM_VIEW
#define OTHERS(j) 0
#else
byte cview[6];                                      /* the view that a claim tells */
#define OTHERS(j) ((cview[2*(j)] != v -> 1<<(2*(j)) : 0) | (cview[2*(j)+1] != v -> 2<<(2*(j)) : 0))
#endif

#ifdef LEAVE
#define JUDGED 15                                   /* cluster 2 may have used its share before it left */
#else
#define JUDGED 63
#endif

#ifdef MINAVAIL
#define COUNT(j) av = av | CM(j)
#else
#define COUNT(j) skip
#endif

/* R3, R4: one snapshot of another cluster, which shows the view w */
inline take(j, w) {
    rd = rd | (1<<(j)); COUNT(j);
    bad = bad || (w) != v;
    if :: !(got & (1<<(j))) -> got = got | (1<<(j)); s1 = s1 | (claims & CM(j)) :: else fi;
    seen = seen | (claims & CM(j) & (s1 | OTHERS(j)))
}

#define UNREAD(j) ((v & (1<<(j))) && !(rd & (1<<(j))))

#ifdef OWN_STORE
#ifdef INST
#define OWNVIEW (c < 2 -> sview2[c%2] : sview[c])
#else
#define OWNVIEW sview[c]
#endif
#else
#define OWNVIEW dview[c]
#endif
#if defined(MINAVAIL) || defined(NO_VIEWS)
#define OKVIEW true
#else
#define OKVIEW (!bad)
#endif

proctype Cl(byte p) {
    byte c = p/2, me = 1<<p, v = 0, rd = 0, seen = 0, av = 0, s1 = 0, got = 0, own = 0;
    bool bad = false, ownbad = false;
#ifdef RETURN
    byte stood = 0;                                 /* ghost: grants when the last round began */
#endif
    v = dview[c];                                   /* a replica's copy of the view */
#ifdef OWN_EARLY
    ownbad = dview[c] != v;
#endif
    atomic {
        claims = claims | me;                       /* R2 */
#ifndef NO_CLAIM_VIEW
        cview[p] = v
#endif
    };
again:
    skip;
#ifdef RETURN
    stood = granted & CMV(v);
#endif
    do
    :: atomic { c != 0 && UNREAD(0) -> take(0, sview[0]) }
    :: atomic { c != 1 && UNREAD(1) -> take(1, sview[1]) }
    :: atomic { c != 2 && UNREAD(2) -> take(2, sview[2]) }
#ifdef INST
    :: atomic { c != 0 && UNREAD(0) && sview2[0] != sview[0] -> take(0, sview2[0]) }
    :: atomic { c != 1 && UNREAD(1) && sview2[1] != sview[1] -> take(1, sview2[1]) }
#endif
    :: atomic { UNREAD(c) -> rd = rd | (1<<c); COUNT(c); own = claims & CM(c) }
#if !defined(OWN_EARLY) && !defined(NO_OWN_VIEW)
    :: atomic { !(rd & 8) -> rd = rd | 8; ownbad = OWNVIEW != v }      /* beside the reads */
#endif
#ifdef SUBSET
    :: atomic { c != 0 && UNREAD(0) -> rd = rd | 1 }
    :: atomic { c != 1 && UNREAD(1) -> rd = rd | 2 }
    :: atomic { c != 2 && UNREAD(2) -> rd = rd | 4 }
#endif
#if defined(OWN_EARLY) || defined(NO_OWN_VIEW)
    :: (v & ~rd) == 0 -> break
#else
    :: ((v | 8) & ~rd) == 0 -> break
#endif
    od;
    atomic {
        bad = bad || ownbad;
        if :: !(got & (1<<c)) -> got = got | (1<<c); s1 = s1 | own :: else fi;
        seen = seen | (own & (s1 | OTHERS(c)));
        if
#ifdef MINAVAIL
        :: OKVIEW && POP(av & ~seen & ~me) >= M -> granted = granted | me; assert(POP(63 & ~granted) >= M); goto out
        :: !(OKVIEW && POP(av & ~seen & ~me) >= M) -> skip
#else
        :: OKVIEW && POP(seen | me) <= U ->
            granted = granted | me;
            assert(POP(granted & JUDGED) <= U);
#ifdef RETURN
            assert(POP(stood | me) <= U);
#endif
            goto out
        :: !(OKVIEW && POP(seen | me) <= U) -> skip
#endif
        fi;
        rd = 0; seen = 0; av = 0; own = 0; bad = false
#ifndef OWN_EARLY
        ; ownbad = false
#endif
    };
#ifdef REREAD
    if
    :: goto again
    :: skip
    fi;
#endif
    atomic {
        claims = claims & ~me;                      /* R7 */
#ifndef NO_CLAIM_VIEW
        cview[p] = 0
#endif
    };
out:
    atomic {
#ifdef WITNESS
        assert(!(granted & WITNESS));
#endif
        v = 0; rd = 0; seen = 0; av = 0; s1 = 0; got = 0; own = 0; bad = false; ownbad = false; c = 0; me = 0
#ifdef RETURN
        ; stood = 0
#endif
    }
}

active proctype Show() {      /* publishers show what their budget says, some time later */
end_show:
    do
    :: atomic { sview[0] != dview[0] -> sview[0] = dview[0] }
    :: atomic { sview[1] != dview[1] -> sview[1] = dview[1] }
    :: atomic { sview[2] != dview[2] -> sview[2] = dview[2] }
#ifdef INST
    :: atomic { sview2[0] != dview[0] -> sview2[0] = dview[0] }
    :: atomic { sview2[1] != dview[1] -> sview2[1] = dview[1] }
#endif
    od
}

#ifdef LEAVE
#define OLD 7
#define NEW 3
#else
#define OLD 3
#define NEW 7
#endif

init {
    atomic {
        dview[0] = OLD; dview[1] = OLD; dview[2] = 7; sview[0] = OLD; sview[1] = OLD; sview[2] = 7;
#ifdef INST
        sview2[0] = OLD; sview2[1] = OLD;
#endif
        if :: (REQ & 1)  -> run Cl(0) :: else fi;
        if :: (REQ & 2)  -> run Cl(1) :: else fi;
        if :: (REQ & 4)  -> run Cl(2) :: else fi;
        if :: (REQ & 8)  -> run Cl(3) :: else fi;
        if :: (REQ & 16) -> run Cl(4) :: else fi;
        if :: (REQ & 32) -> run Cl(5) :: else fi
    }
    do                                              /* the change reaches the others one by one */
    :: dview[0] == OLD -> dview[0] = NEW
    :: dview[1] == OLD -> dview[1] = NEW
    :: else -> break
    od
#ifdef RETURN
    ;
    do
    :: dview[0] == NEW -> dview[0] = OLD
    :: dview[1] == NEW -> dview[1] = OLD
    :: else -> break
    od
#endif
}
