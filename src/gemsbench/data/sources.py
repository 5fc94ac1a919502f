"""Every raw file that a recipe or corpus reads: address, size, hash, licence. The one place where they stand.

Where a hash or size is missing nobody has published it, and the file could not be had when this was written. Recipes
name their sources, and do not import them: a moved address is no reason to prepare anything again.
"""

from __future__ import annotations

from collections.abc import Mapping

from gemsbench.data.source import HubDataset, RawFile, Source

# Hashes of the release of 2014. Electronics: size and md5 from a public script that fetches these files, sha256 from
# the git-lfs pointers of another public copy with the same sizes; PaddlePaddle's list has the same md5 of the reviews.
# That list is the one source of the Kindle md5; of Kindle metadata nobody gives a hash.
_SNAP = "snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_MCAULEY_LAB = "https://mcauleylab.ucsd.edu/public_datasets/data"
_AMAZON_TERMS = "none stated: published for research, not to be redistributed"
_AMAZON_2014 = "He and McAuley, WWW 2016; McAuley, Targett, Shi and van den Hengel, SIGIR 2015"


def _amazon_2014(name: str, sha256: str = "", size: int = 0, md5: str = "") -> RawFile:
    return RawFile(
        name,
        sha256,
        size,
        f"http://{_SNAP}/{name}",
        mirror=f"amazon-2014/{name}",
        md5=md5,
        further=(f"https://{_SNAP}/{name}", f"{_MCAULEY_LAB}/amazon/categoryFiles/{name}"),
    )


ELECTRONICS_2014 = Source(
    name="electronics-2014",
    title="Amazon reviews, release of 2014: Electronics, 5-core",
    homepage="http://jmcauley.ucsd.edu/data/amazon/",
    licence=_AMAZON_TERMS,
    citation=_AMAZON_2014,
    files=(
        _amazon_2014(
            "reviews_Electronics_5.json.gz",
            "af3e7686df7ba4d1ea617197cc5e236c761367e86626c7d9246ac2fc79e36358",
            495_854_086,
            "e4524af6c644cd044b1969bac7b62b2a",
        ),
        _amazon_2014(
            "meta_Electronics.json.gz",
            "4d01fff21369dabed5a893861cd0f72359a77971c69181d680a44faa55d91ac8",
            186_594_679,
            "b39b77b4c980cca078ec2b93dfcba786",
        ),
    ),
)

KINDLE_2014 = Source(
    name="kindle-2014",
    title="Amazon reviews, release of 2014: Kindle Store, 5-core",
    homepage="http://jmcauley.ucsd.edu/data/amazon/",
    licence=_AMAZON_TERMS,
    citation=_AMAZON_2014,
    files=(
        _amazon_2014("reviews_Kindle_Store_5.json.gz", md5="b608740c754287090925a1a186505353"),
        _amazon_2014("meta_Kindle_Store.json.gz"),
    ),
)


def _amazon_2018(folder: str, name: str) -> RawFile:
    return RawFile(
        name,
        "",
        0,
        f"https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2/{folder}/{name}",
        mirror=f"amazon-2018/{name}",
        further=(
            f"{_MCAULEY_LAB}/amazon_v2/{folder}/{name}",
            f"https://jmcauley.ucsd.edu/data/amazon_v2/{folder}/{name}",
        ),
    )


ELECTRONICS_2018 = Source(
    name="electronics-2018",
    title="Amazon reviews, release of 2018: Electronics, 5-core",
    homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
    licence=_AMAZON_TERMS,
    citation="Ni, Li and McAuley, EMNLP 2019",
    files=(
        _amazon_2018("categoryFilesSmall", "Electronics_5.json.gz"),
        _amazon_2018("metaFiles2", "meta_Electronics.json.gz"),
    ),
)

_AI_COMMIT = "64907e59b4ce27738e61607f2d6b16b62dee92ac"
_AI = f"https://raw.githubusercontent.com/QingyaoAi/Amazon-Product-Search-Datasets/{_AI_COMMIT}"
_AI_FOLDER = "reviews_Electronics_5"  # or the whole name of the file of reviews: copies of the repository differ


def _ai(name: str, sha256: str = "", size: int = 0, md5: str = "") -> RawFile:
    return RawFile(
        name,
        sha256,
        size,
        f"{_AI}/{_AI_FOLDER}.json.gz/{name}",
        mirror=f"amazon-product-search-queries/{_AI_FOLDER}/{name}",
        md5=md5,
        further=(f"{_AI}/{_AI_FOLDER}/{name}",),
    )


PRODUCT_SEARCH_ELECTRONICS = Source(
    name="product-search-electronics",
    title="Personalised product search on Amazon Electronics: queries and who asked them",
    homepage="https://github.com/QingyaoAi/Amazon-Product-Search-Datasets",
    licence="none stated: citation asked for",
    citation="Ai, Zhang, Bi, Chen and Croft, SIGIR 2017",
    files=(
        _ai(
            "query_text.txt.gz",
            "783ba9464eb5636cf3413d4f2f0927f76c04388d390fa2ea7f6aaa07bfd52e01",
            8_510,
            "10cba64f4ef57f602cfcef5f2d060060",
        ),
        _ai("train.qrels.gz"),
        _ai(
            "test.qrels.gz",
            "91c55642c2fbefc3e89937de0a5240a50e84ca599e7c6b543acd5b35f955219e",
            59_472,
            "b81fc06a47e015f69471b7c7c4696669",
        ),
    ),
)

QILIN = Source(
    name="qilin",
    title="Qilin: searches and recommendations of a Chinese note-sharing service",
    homepage="https://huggingface.co/datasets/THUIR/Qilin",
    licence="Apache-2.0 (card of the hub's dataset; the GitHub README says MIT)",
    citation="Chen et al., Qilin, SIGIR 2025, arXiv 2503.00501",
    hub=HubDataset(
        "THUIR/Qilin", ("search_train", "search_test", "recommendation_train", "recommendation_test", "notes")
    ),
)

_JOURNEY_COMMIT = "5b5d06192b9856edd04e4d405787af2f2e4a1fef"


def _journey(name: str, sha256: str, size: int) -> RawFile:
    url = f"https://raw.githubusercontent.com/bradleyboehmke/completejourney/{_JOURNEY_COMMIT}/data/{name}"
    return RawFile(name, sha256, size, url, mirror=f"completejourney/{name}")


JOURNEY = Source(
    name="journey-small",
    title="The Complete Journey: grocery purchases",
    homepage="https://github.com/bradleyboehmke/completejourney",
    licence="CC0 (R package completejourney); the 84.51 source files carry their own terms",
    citation="84.51, The Complete Journey 2.0, as shipped by the R package completejourney 1.1.1",
    files=(
        _journey("products.rda", "a80c6df33623b4af296ae9f317a6647e369db7e8ce7e7baed0e1bf44b9d979e5", 869_019),
        _journey(
            "transactions_sample.rda", "3abc5ec5a86c25913564a22314ea9ad2ab98160ebe77ee99672e0378929f0a03", 1_158_897
        ),
    ),
)

_LASTFM_URL = "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"


def _lastfm(name: str, sha256: str, size: int) -> RawFile:
    return RawFile(name, sha256, size, _LASTFM_URL, name, f"hetrec-lastfm-2k/{name}.gz")


LASTFM = Source(
    name="lastfm-small",
    title="HetRec 2011, Last.fm: listening and tagging",
    homepage="https://grouplens.org/datasets/hetrec-2011/",
    licence="non-commercial use (HetRec 2011 readme)",
    citation="Cantador, Brusilovsky and Kuflik, HetRec workshop at RecSys 2011",
    files=(
        _lastfm("artists.dat", "c173881362c6b28551368fecb3c0be5a6a30a6cd859e1f5775413dfe46d48648", 1_925_879),
        _lastfm("tags.dat", "778bcb1f925a41dfa60886e3de442673fd1f85fbea338477fe1d2edaab3ff289", 222_537),
        _lastfm("user_artists.dat", "254272fa721c3935e8be286d28c051b206844307128698ab4eaa41d483379416", 1_203_620),
        _lastfm(
            "user_taggedartists.dat", "c4a9ffae9ab47a9f9b2f0678ab1f7e5c1db4ca818837d8cddd1f5699c5bbf048", 4_180_216
        ),
    ),
)

_MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"


def _movielens(name: str, sha256: str, size: int) -> RawFile:
    return RawFile(name, sha256, size, _MOVIELENS_URL, f"ml-latest-small/{name}", f"movielens-latest-small/{name}.gz")


MOVIELENS = Source(
    name="movielens-small",
    title="MovieLens latest-small: ratings and tags of films",
    homepage="https://grouplens.org/datasets/movielens/latest/",
    licence="GroupLens terms of use: research, acknowledgement, redistribution under the same conditions",
    citation="Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015",
    files=(
        _movielens("ratings.csv", "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646", 2_483_723),
        _movielens("movies.csv", "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07", 494_431),
        _movielens("tags.csv", "92a9f8bb7916dceef6151209845788c3643f794dfa79d1feaec7121b5960399d", 118_660),
    ),
)

_WIKITEXT_COMMIT = "77f55b912142e11fcfdf5b530231fb9c52f181e8"


def _wikitext(name: str, sha256: str, size: int) -> RawFile:
    folder = (
        f"https://raw.githubusercontent.com/pytorch/examples/{_WIKITEXT_COMMIT}/word_language_model/data/wikitext-2"
    )
    return RawFile(name, sha256, size, f"{folder}/{name}", mirror=f"wikitext-2/{name}.gz")


WIKITEXT_2 = Source(
    name="wikitext-2",
    title="WikiText-2, validation and test parts",
    homepage="https://github.com/pytorch/examples/tree/main/word_language_model",
    licence="CC BY-SA 3.0 (Wikipedia contributors)",
    citation="Merity et al., Pointer Sentinel Mixture Models, arXiv 1609.07843",
    files=(
        _wikitext("valid.txt", "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8", 1_121_681),
        _wikitext("test.txt", "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0", 1_256_449),
    ),
)

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        *(ELECTRONICS_2014, ELECTRONICS_2018, KINDLE_2014, PRODUCT_SEARCH_ELECTRONICS, QILIN),
        *(JOURNEY, LASTFM, MOVIELENS, WIKITEXT_2),
    )
}
