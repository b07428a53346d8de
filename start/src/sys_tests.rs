//! Tests of `sys`, each in a child of its own.
//!
//! The sanitizers run them too: `docs/reliability.md`.
use crate::sys::{self, Arrived, Fork, Signals};
use rustix::process::{WaitOptions, WaitStatus, getpid, waitpid};
use rustix::thread::UnshareFlags;

/// How a child that does `deed` ends; its status says whether that was so.
fn in_child(deed: impl FnOnce() -> bool) -> WaitStatus {
    match sys::fork().unwrap() {
        Fork::Child => sys::exit_child(i32::from(!deed())),
        Fork::Parent(child) => {
            let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
            status
        }
    }
}

fn send_to_itself(signal: i32) {
    let _ = sys::kill(getpid().as_raw_nonzero().get(), signal);
}

#[test]
fn signals_that_are_kept_back_are_read_one_by_one() {
    let status = in_child(|| {
        let Ok(signals) = Signals::block() else {
            return false;
        };
        let sent = [libc::SIGTERM, libc::SIGUSR1, libc::SIGRTMIN() + 3];
        sent.into_iter().for_each(send_to_itself);
        let mut arrived = std::iter::from_fn(|| signals.next()).collect::<Vec<_>>();
        arrived.sort_by_key(|arrived| arrived.signal);
        let mut expected = sent.map(|signal| Arrived {
            signal,
            from_kernel: false,
        });
        expected.sort_by_key(|arrived| arrived.signal);
        arrived == expected && signals.next().is_none()
    });
    assert_eq!(status.exit_status(), Some(0));
}

#[test]
fn signals_come_again_once_the_mask_is_as_before() {
    let status = in_child(|| {
        let signals = Signals::block();
        send_to_itself(libc::SIGTERM);
        if let Ok(signals) = signals {
            signals.before.set();
        }
        false
    });
    assert_eq!(status.terminating_signal(), Some(libc::SIGTERM));
}

#[test]
fn waiting_for_a_child_loses_no_other_signal() {
    let status = in_child(|| {
        let Ok(signals) = Signals::block() else {
            return false;
        };
        send_to_itself(libc::SIGTERM);
        send_to_itself(libc::SIGCHLD);
        Signals::wait_for_child(1);
        let arrived = std::iter::from_fn(|| signals.next());
        arrived.map(|arrived| arrived.signal).eq([libc::SIGTERM])
    });
    assert_eq!(status.exit_status(), Some(0));
}

#[test]
fn a_process_ends_by_the_signal_that_the_app_ended_by() {
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV] {
        let status = in_child(|| {
            let _signals = Signals::block();
            send_to_itself(libc::SIGHUP);
            sys::die_by(signal);
            false
        });
        assert_eq!(status.terminating_signal(), Some(signal));
    }
}

#[test]
fn a_signal_to_nobody_is_an_error() {
    let error = sys::kill(i32::MAX, libc::SIGTERM).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn asking_to_be_traced_is_allowed_or_refused_and_leaves_no_child() {
    let status = in_child(|| {
        // As it is for whoever was started by a program that ignores it.
        sys::ignore_ended_children();
        let Ok(_signals) = Signals::block() else {
            return false;
        };
        let answer = sys::try_ptrace();
        let refused = answer.is_err_and(|error| error.raw_os_error().is_none());
        // There is none to wait for.
        !refused && waitpid(None, WaitOptions::NOHANG).is_err()
    });
    assert_eq!(status.exit_status(), Some(0));
}

#[test]
fn leaving_no_namespace_is_always_allowed() {
    let status = in_child(|| sys::unshare(UnshareFlags::empty()).is_ok());
    assert_eq!(status.exit_status(), Some(0));
}

#[test]
fn a_session_whose_leader_is_outside_of_the_process_namespace_is_not_this_process_s() {
    let status = in_child(|| {
        let new = UnshareFlags::NEWPID;
        let new = sys::unshare(new).or_else(|_| sys::unshare(new | UnshareFlags::NEWUSER));
        let first = || in_child(|| sys::is_init() && !sys::leads_session());
        new.is_ok() && first().exit_status() == Some(0)
    });
    assert_eq!(status.exit_status(), Some(0));
}
