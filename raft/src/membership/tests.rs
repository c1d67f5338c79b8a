use super::*;
use crate::hex;
use proptest::prelude::*;

fn member(id: u64, role: MemberRole, context: &str) -> Member {
    Member {
        id: NodeId(id),
        role,
        context: Bytes::copy_from_slice(context.as_bytes()),
    }
}

fn three() -> Configuration {
    Configuration::new(vec![
        member(3, MemberRole::Spare, ""),
        member(1, MemberRole::Voter, "10.0.0.1:9000"),
        member(2, MemberRole::Standby, "b"),
    ])
    .expect("a configuration")
}

/// If this fails the format has changed: give it a new version.
#[test]
fn the_bytes_are_those_of_the_golden_file() {
    hex::check("configuration.hex", &[three().encode().to_vec()]);
}

#[test]
fn members_are_in_order_and_found_by_id() {
    let three = three();
    let ids: Vec<u64> = three.members().iter().map(|member| member.id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(three.role(NodeId(2)), Some(MemberRole::Standby));
    assert_eq!(three.role(NodeId(4)), None);
    assert_eq!(three.voters().collect::<Vec<_>>(), [NodeId(1)]);
}

#[test]
fn changes_lead_from_one_configuration_to_the_next() {
    let check = |change: MembershipChange, roles: &[(u64, MemberRole)]| {
        let changed = three().changed(&change).expect("a possible change");
        let found = changed.members().iter();
        assert_eq!(
            found
                .map(|member| (member.id.0, member.role))
                .collect::<Vec<_>>(),
            roles
        );
    };
    use MemberRole::{Spare, Standby, Voter};
    let id = NodeId;
    check(
        MembershipChange::Add {
            id: id(4),
            role: Standby,
            context: Bytes::new(),
        },
        &[(1, Voter), (2, Standby), (3, Spare), (4, Standby)],
    );
    check(
        MembershipChange::SetRole {
            id: id(2),
            role: Voter,
        },
        &[(1, Voter), (2, Voter), (3, Spare)],
    );
    check(
        MembershipChange::Remove { id: id(3) },
        &[(1, Voter), (2, Standby)],
    );
    let moved = MembershipChange::SetContext {
        id: id(2),
        context: Bytes::from_static(b"elsewhere"),
    };
    let changed = three().changed(&moved).expect("a possible change");
    let context = changed.member(id(2)).map(|member| &member.context[..]);
    assert_eq!(context, Some(&b"elsewhere"[..]));
}

#[test]
fn each_rule_refuses_its_breach() {
    let check = |change: MembershipChange, text: &str| {
        let error = three().changed(&change).expect_err(text);
        assert_eq!(error.to_string(), text);
    };
    let context = Bytes::new;
    let add = |id, role| MembershipChange::Add {
        id: NodeId(id),
        role,
        context: context(),
    };
    check(add(2, MemberRole::Spare), "n2 is a member already");
    check(
        add(4, MemberRole::Voter),
        "n4 cannot join as a voter: add it as a standby, and promote it when it has caught up",
    );
    let id = NodeId(9);
    check(MembershipChange::Remove { id }, "n9 is not a member");
    let id = NodeId(1);
    check(
        MembershipChange::Remove { id },
        "a cluster needs at least one voter",
    );
    let role = MemberRole::Voter;
    check(
        MembershipChange::SetRole { id, role },
        "nothing would change for n1",
    );
    let long = Bytes::from(vec![0; CONTEXT_BYTES_MAX + 1]);
    check(
        MembershipChange::SetContext { id, context: long },
        "the context of n1 has 1025 bytes, but 1024 is the most allowed",
    );
    let many = (0..=MEMBERS_MAX as u64).map(NodeId);
    assert_eq!(
        Configuration::of_voters(many),
        Err(ConfigurationError::TooManyMembers { members: 65 })
    );
    let alone = Configuration::of_voters([id]).expect("a configuration");
    assert_eq!(
        alone.changed(&MembershipChange::Remove { id }),
        Err(ConfigurationError::NoVoter)
    );
}

fn any_members() -> impl Strategy<Value = Vec<Member>> {
    let role = prop_oneof![
        Just(MemberRole::Voter),
        Just(MemberRole::Standby),
        Just(MemberRole::Spare)
    ];
    let context = prop::collection::vec(any::<u8>(), 0..40);
    prop::collection::vec((0u64..12, role, context), 0..8).prop_map(|members| {
        let member = |(id, role, context)| Member {
            id: NodeId(id),
            role,
            context: Bytes::from(context),
        };
        members.into_iter().map(member).collect()
    })
}

proptest! {
    #[test]
    fn a_configuration_survives_its_bytes(members in any_members()) {
        if let Ok(configuration) = Configuration::new(members) {
            prop_assert_eq!(Configuration::decode(configuration.encode()), Ok(configuration));
        }
    }

    /// What is read has exactly one encoding, so that equal entries are equal configurations.
    #[test]
    fn whatever_can_be_read_is_what_would_be_written(
        members in any_members(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let Ok(configuration) = Configuration::new(members) else {
            return Ok(());
        };
        let mut bytes = configuration.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let end = cut.index(bytes.len()) + 1;
        for bytes in [&bytes[..], &bytes[..end]] {
            let bytes = Bytes::copy_from_slice(bytes);
            if let Ok(read) = Configuration::decode(bytes.clone()) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
